package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"connectrpc.com/connect"
	"go.yaml.in/yaml/v3"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

func decodeRole(b []byte) (policy.Role, error) {
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return policy.Role{}, err
	}
	return policy.FromMap(m)
}

// Apply stores the roles of a YAML stream, all or none. Who may apply may write any role: it is an admin's verb.
func (s adminService) Apply(ctx context.Context, req *connect.Request[api.ApplyRequest]) (*connect.Response[api.ApplyResponse], error) {
	c, r := callerOf(ctx), req.Msg
	roles, err := parseRoles(r.Yaml)
	if err != nil {
		return nil, invalid("%w", err)
	}
	res := &api.ApplyResponse{}
	err = retryConflict(ctx, func() error {
		res.Resources = nil
		var conds []store.Cond
		var ops []store.Op
		for _, role := range roles {
			value, err := json.Marshal(role.ToMap())
			if err != nil {
				return err
			}
			key, change := rolePrefix+role.Name, "changed"
			kv, err := s.state.Get(ctx, key)
			switch {
			case errors.Is(err, store.ErrNotFound):
				change = "created"
				conds = append(conds, store.IfAbsent(key))
			case err != nil:
				return err
			case bytes.Equal(kv.Value, value):
				change = "unchanged"
			default:
				conds = append(conds, store.IfModRev(key, kv.ModRev))
			}
			if change != "unchanged" {
				ops = append(ops, store.Put(key, value))
			}
			res.Resources = append(res.Resources, &api.AppliedResource{Kind: "role", Name: role.Name, Change: change})
		}
		if r.DryRun || len(ops) == 0 {
			return nil
		}
		return s.commit(ctx, conds, ops...)
	})
	if err != nil {
		return nil, err
	}
	if !r.DryRun {
		for _, a := range res.Resources {
			s.record(Event{Type: "admin.role.apply", Actor: c.String(), Source: c.addr, Object: a.Name, Reason: a.Change})
		}
	}
	return connect.NewResponse(res), nil
}

func parseRoles(text string) ([]policy.Role, error) {
	if len(text) > maxYAML {
		return nil, fmt.Errorf("more than %d bytes of YAML", maxYAML)
	}
	dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	var roles []policy.Role
	var errs []error
	for n := 1; ; n++ {
		var m map[string]any
		err := dec.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if n > maxResources {
			return nil, fmt.Errorf("more than %d resources", maxResources)
		}
		if m == nil {
			continue
		}
		if kind := m["kind"]; kind != "role" {
			errs = append(errs, fmt.Errorf("document %d: kind %s is not known; give role", n, wire.Quote(fmt.Sprint(kind), 40)))
			continue
		}
		role, err := policy.FromMap(m)
		if err != nil {
			errs = append(errs, fmt.Errorf("document %d: %w", n, err))
			continue
		}
		if _, builtin := policy.Builtin(role.Name); builtin {
			errs = append(errs, fmt.Errorf("document %d: role %s is built in and cannot be changed; choose another name", n, role.Name))
		}
		if slices.ContainsFunc(roles, func(r policy.Role) bool { return r.Name == role.Name }) {
			errs = append(errs, fmt.Errorf("document %d: role %s is given twice", n, role.Name))
		}
		roles = append(roles, role)
	}
	if len(roles) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no resource in it"))
	}
	return roles, errors.Join(errs...)
}

// Get answers roles as YAML.
func (s adminService) Get(_ context.Context, req *connect.Request[api.GetRequest]) (*connect.Response[api.GetResponse], error) {
	if req.Msg.Kind != "role" && req.Msg.Kind != "roles" {
		return nil, invalid("kind %q is not known; give role", wire.Quote(req.Msg.Kind, 40))
	}
	roles, _ := s.view.policies()
	if req.Msg.Name != "" {
		if roles = pick(roles, []string{req.Msg.Name}); len(roles) == 0 {
			return nil, notFound("no role %q", wire.Quote(req.Msg.Name, 64))
		}
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for _, r := range roles {
		m := r.ToMap()
		m["kind"] = "role"
		if err := enc.Encode(m); err != nil {
			return nil, err
		}
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&api.GetResponse{Yaml: out.String()}), nil
}
