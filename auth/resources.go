package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// The kinds of resources.
const (
	kindRole    = "role"
	kindCluster = "cluster"
)

// resource is one document of what is applied.
type resource struct {
	kind, name string
	key        string // in the store
	fields     map[string]any
	pending    []string     // what it states that is not yet in force
	role       *policy.Role // of kind role
}

// value is how it is stored: the keys of a JSON object are sorted, so that the same resource is the same bytes.
func (r resource) value() ([]byte, error) { return json.Marshal(r.fields) }

func roleResource(role policy.Role) resource {
	return resource{kind: kindRole, name: role.Name, key: rolePrefix + role.Name, fields: role.ToMap(), pending: policy.Pending(role), role: &role}
}

func clusterResource(c policy.Cluster) resource {
	return resource{kind: kindCluster, name: c.Name, key: clusterKey, fields: c.ToMap(), pending: policy.PendingCluster(c)}
}

// document is a YAML stream and what to call it in errors.
type document struct{ name, yaml string }

// parseResources reads every document of every stream, and fails with all that is wrong in any.
func parseResources(streams []document, cluster string) ([]resource, error) {
	var list []resource
	var errs []error
	size := 0
	for _, s := range streams {
		if size += len(s.yaml); size > maxYAML {
			return nil, fmt.Errorf("more than %d bytes of YAML", maxYAML)
		}
		dec := yaml.NewDecoder(strings.NewReader(s.yaml))
		for n := 1; ; n++ {
			at := fmt.Sprintf("document %d", n)
			if s.name != "" {
				at = wire.Quote(s.name, 200) + ": " + at
			}
			var m map[string]any
			err := dec.Decode(&m)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", at, err)
			}
			if m == nil {
				continue
			}
			if len(list)+len(errs) >= maxResources {
				return nil, fmt.Errorf("more than %d resources", maxResources)
			}
			r, err := parseResource(m, cluster)
			if err == nil && slices.ContainsFunc(list, func(o resource) bool { return o.key == r.key }) {
				err = fmt.Errorf("%s %s is given twice", r.kind, r.name)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", at, err))
				continue
			}
			list = append(list, r)
		}
	}
	if len(list) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no resource in it"))
	}
	return list, errors.Join(errs...)
}

func parseResource(m map[string]any, cluster string) (resource, error) {
	switch m["kind"] {
	case kindRole:
		role, err := policy.FromMap(m)
		if err != nil {
			return resource{}, err
		}
		return roleResource(role), nil
	case kindCluster:
		c, err := policy.ClusterFromMap(m)
		if err != nil {
			return resource{}, err
		}
		if c.Name != "" && c.Name != cluster {
			return resource{}, fmt.Errorf("name: this cluster is %s, and is not renamed; leave it away", cluster)
		}
		c.Name = cluster
		return clusterResource(c), nil
	}
	return resource{}, fmt.Errorf("kind %s is not known; give role or cluster", wire.Quote(fmt.Sprint(m["kind"]), 40))
}

// writeYAML writes resources as YAML documents, keys in the order of DESIGN's examples and short lists on one line.
func writeYAML(list ...map[string]any) (string, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for _, fields := range list {
		if err := enc.Encode(yamlNode(fields)); err != nil {
			return "", err
		}
	}
	if err := enc.Close(); err != nil {
		return "", err
	}
	return out.String(), nil
}

// flowWidth is how wide a list may be on one line, in bytes.
const flowWidth = 100

// yamlNode holds what ToMap gives: text, numbers, truths, lists and maps.
func yamlNode(v any) *yaml.Node {
	n := new(yaml.Node)
	switch v := v.(type) {
	case map[string]any:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		for _, key := range policy.SortKeys(v) {
			n.Content = append(n.Content, yamlNode(key), yamlNode(v[key]))
		}
	case []any:
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		width, flat := 0, true
		for _, e := range v {
			c := yamlNode(e)
			width, flat = width+len(c.Value)+2, flat && c.Kind == yaml.ScalarNode
			n.Content = append(n.Content, c)
		}
		if flat && width <= flowWidth {
			n.Style = yaml.FlowStyle
		}
	default:
		if err := n.Encode(v); err != nil {
			panic(fmt.Sprintf("auth: a resource holds a %T", v)) // ToMap gives nothing else
		}
	}
	return n
}
