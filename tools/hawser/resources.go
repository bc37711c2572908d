package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

// maxFiles bounds what one apply reads from a directory.
const maxFiles = 1000

func newApply() *cobra.Command {
	var files []string
	var dryRun bool
	c := &cobra.Command{
		Use:   "apply -f FILE|DIR|-...",
		Short: "Store resources from YAML: all of what is given, or nothing",
		Long: "apply stores roles (kind: role) and the cluster's configuration (kind: cluster).\n" +
			"A directory stands for its files *.yaml and *.yml. What a resource states that this version\n" +
			"does not enforce yet is said on standard error.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			res, err := applyFiles(c, files, &api.ApplyRequest{DryRun: dryRun})
			if err != nil {
				return err
			}
			for _, r := range res.Resources {
				note := ""
				if dryRun {
					note = " (dry run)"
				}
				fmt.Fprintf(c.OutOrStdout(), "%s/%s %s%s\n", r.Kind, r.Name, r.Change, note)
				for _, w := range r.Warnings {
					fmt.Fprintf(c.ErrOrStderr(), "warning: %s/%s: %s\n", r.Kind, r.Name, w)
				}
			}
			return nil
		},
	}
	filesFlag(c, &files)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and say what would change")
	return c
}

func filesFlag(c *cobra.Command, files *[]string) {
	c.Flags().StringArrayVarP(files, "file", "f", nil, "YAML documents: a file, a directory, or - for standard input; may be repeated")
}

// applyFiles makes the call with what files name.
func applyFiles(c *cobra.Command, files []string, req *api.ApplyRequest) (*api.ApplyResponse, error) {
	if len(files) == 0 {
		return nil, usageError{errors.New("name a file or directory with -f, or - for standard input")}
	}
	for _, path := range files {
		names, err := yamlFiles(path)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			b, err := readInput(c, name)
			if err != nil {
				return nil, err
			}
			req.Files = append(req.Files, &api.ApplyFile{Name: name, Yaml: string(b)})
		}
	}
	return call(c.Context(), apiconnect.AdminServiceClient.Apply, req)
}

// yamlFiles returns path, or the YAML files in it where it is a directory.
func yamlFiles(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			names = append(names, filepath.Join(path, e.Name()))
		}
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("%s holds no file *.yaml or *.yml", path)
	case len(names) > maxFiles:
		return nil, fmt.Errorf("%s holds more than %d files", path, maxFiles)
	}
	return names, nil
}

func newDiff() *cobra.Command {
	var files []string
	var color string
	c := &cobra.Command{
		Use:   "diff -f FILE|DIR|-...",
		Short: "Show what apply would change, as a unified diff; exit 1 where anything differs",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			coloured := false
			switch color {
			case "always":
				coloured = true
			case "auto":
				coloured = os.Getenv("NO_COLOR") == "" && isTerminal(c.OutOrStdout())
			case "never":
			default:
				return usageError{fmt.Errorf("--color %s: give auto, always or never", color)}
			}
			res, err := applyFiles(c, files, &api.ApplyRequest{DryRun: true, Show: true})
			if err != nil {
				return err
			}
			differs := false
			for _, r := range res.Resources {
				name := r.Kind + "/" + r.Name
				from := name + " (cluster)"
				if r.Before == "" {
					from = "/dev/null"
				}
				text := unifiedDiff(from, name+" (file)", r.Before, r.After, coloured)
				differs = differs || text != ""
				fmt.Fprint(c.OutOrStdout(), text)
				for _, w := range r.Warnings {
					fmt.Fprintf(c.ErrOrStderr(), "warning: %s: %s\n", name, w)
				}
			}
			if differs {
				return silentError(exitFailed)
			}
			return nil
		},
	}
	filesFlag(c, &files)
	c.Flags().StringVar(&color, "color", "auto", "auto, always or never")
	return c
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func newGet() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:       "get role|cluster [NAME]",
		Short:     "Print resources as the YAML that apply takes",
		Args:      cobra.RangeArgs(1, 2),
		ValidArgs: []string{"role", "cluster"},
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

func newRole() *cobra.Command {
	return group("role", "Roles: what people may do", newRoleList(), newRoleRemove())
}

// roleRow is a role as `role ls` prints it.
type roleRow struct {
	Name     string   `json:"name" yaml:"name"`
	Builtin  bool     `json:"builtin" yaml:"builtin"`
	Users    []string `json:"users" yaml:"users"`
	Devices  string   `json:"devices,omitempty" yaml:"devices,omitempty"`
	Logins   []string `json:"logins,omitempty" yaml:"logins,omitempty"`
	Channels []string `json:"channels,omitempty" yaml:"channels,omitempty"`
	Ways     []string `json:"ways,omitempty" yaml:"ways,omitempty"`
	Pending  []string `json:"pending,omitempty" yaml:"pending,omitempty"`
}

func newRoleList() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "List roles, what they allow and how many people hold each",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := callPolicy(c.Context(), apiconnect.PolicyServiceClient.ListRoles, &api.ListRolesRequest{})
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			var list []roleRow
			var rows [][]string
			for _, r := range res.Roles {
				if format == formatName {
					fmt.Fprintln(out, r.Name)
				}
				list = append(list, roleRow{
					r.Name, r.Builtin, append([]string{}, r.Users...), r.Devices, r.Logins, r.Channels, r.Ways, r.Pending,
				})
				row := []string{r.Name, kindOfRole(r), fmt.Sprint(len(r.Users)), r.Devices}
				row = append(row, strings.Join(r.Logins, ","), strings.Join(r.Channels, ","), strings.Join(r.Ways, ","))
				if format == formatWide {
					row = append(row, strings.Join(r.Users, ","), strings.Join(r.Pending, "; "))
				}
				rows = append(rows, row)
			}
			switch format {
			case formatName:
				return nil
			case formatJSON, formatYAML:
				return data(out, format, list)
			}
			head := []string{"NAME", "KIND", "USERS", "DEVICES", "LOGINS", "CHANNELS", "WAYS"}
			if format == formatWide {
				head = append(head, "HELD BY", "NOT YET IN FORCE")
			}
			return table(out, head, rows)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name")
	return c
}

func kindOfRole(r *api.RoleSummary) string {
	if r.Builtin {
		return "built in"
	}
	return "custom"
}

func newRoleRemove() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a role that nobody holds",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			res, err := callPolicy(c.Context(), apiconnect.PolicyServiceClient.RemoveRole, &api.RemoveRoleRequest{Name: args[0], Force: force})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "role/%s removed\n", args[0])
			for _, u := range res.Users {
				fmt.Fprintf(c.OutOrStdout(), "user/%s lost it\n", u)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&force, "force", false, "take it from those who hold it")
	return c
}
