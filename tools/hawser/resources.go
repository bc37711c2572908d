package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

func newApply() *cobra.Command {
	var file string
	var dryRun bool
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Store resources from YAML: all of the file, or nothing",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usageError{fmt.Errorf("name a file with -f, or - for standard input")}
			}
			b, err := readInput(c, file)
			if err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.Apply, &api.ApplyRequest{Yaml: string(b), DryRun: dryRun})
			if err != nil {
				return err
			}
			for _, r := range res.Resources {
				fmt.Fprintf(c.OutOrStdout(), "%s/%s %s\n", r.Kind, r.Name, r.Change)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "YAML documents, - for standard input")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and say what would change")
	return c
}

func newGet() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "Print resources as the YAML that apply takes",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if format != formatYAML {
				return usageError{fmt.Errorf("-o %s: resources are printed as yaml", format)}
			}
			req := &api.GetRequest{Kind: args[0]}
			if len(args) == 2 {
				req.Name = args[1]
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.Get, req)
			if err != nil {
				return err
			}
			fmt.Fprint(c.OutOrStdout(), res.Yaml)
			return nil
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatYAML, "yaml")
	return c
}
