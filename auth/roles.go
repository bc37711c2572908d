package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"

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

// Apply stores the resources of some YAML streams, all or none. Who may apply may write any role: it is an admin's verb; the
// cluster takes one of its own as well.
func (s adminService) Apply(ctx context.Context, req *connect.Request[api.ApplyRequest]) (*connect.Response[api.ApplyResponse], error) {
	c, r := callerOf(ctx), req.Msg
	var streams []document
	if r.Yaml != "" || len(r.Files) == 0 {
		streams = append(streams, document{"", r.Yaml})
	}
	for _, f := range r.Files {
		streams = append(streams, document{f.Name, f.Yaml})
	}
	list, err := parseResources(streams, s.info.Cluster)
	if err != nil {
		return nil, invalid("%w", err)
	}
	if slices.ContainsFunc(list, func(r resource) bool { return r.kind == kindCluster }) {
		if err := s.mayAdmin(c, "cluster", "update"); err != nil {
			return nil, err
		}
	}
	if err := s.fits(list); err != nil {
		return nil, invalid("%w", err)
	}
	res := &api.ApplyResponse{}
	var changes []string // of each resource, for the audit log
	err = retryConflict(ctx, func() error {
		res.Resources, changes = nil, nil
		var conds []store.Cond
		var ops []store.Op
		for _, one := range list {
			value, err := one.value()
			if err != nil {
				return err
			}
			applied := &api.AppliedResource{Kind: one.kind, Name: one.name, Warnings: one.pending}
			kv, err := s.state.Get(ctx, one.key)
			switch {
			case errors.Is(err, store.ErrNotFound):
				conds = append(conds, store.IfAbsent(one.key))
			case err != nil:
				return err
			default:
				conds = append(conds, store.IfModRev(one.key, kv.ModRev))
			}
			before, err := s.stored(one.kind, kv.Value)
			if err != nil {
				return fmt.Errorf("record %s is damaged: %w; %s", one.key, err, restoreHint)
			}
			switch {
			case before == nil:
				applied.Change = "created"
			case sameJSON(before, value):
				applied.Change = "unchanged"
			default:
				applied.Change = "changed"
			}
			change := applied.Change
			if applied.Change != "unchanged" {
				ops = append(ops, store.Put(one.key, value))
				change += ": " + strings.Join(changedKeys("", before, one.fields), " ")
			}
			changes = append(changes, change)
			if r.Show {
				if applied.After, err = writeYAML(one.fields); err != nil {
					return err
				}
				if before != nil {
					if applied.Before, err = writeYAML(before); err != nil {
						return err
					}
				}
			}
			res.Resources = append(res.Resources, applied)
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
		for i, a := range res.Resources {
			reason := changes[i][:min(len(changes[i]), maxChanges)]
			s.record(Event{Type: "admin." + a.Kind + ".apply", Actor: c.String(), Source: c.addr, Via: c.via, Object: a.Name, Reason: reason})
		}
	}
	return connect.NewResponse(res), nil
}

// changedKeys says of each key that differs what it was and what it is, in JSON.
func changedKeys(path string, before, after map[string]any) []string {
	var list []string
	keys := maps.Clone(after)
	if keys == nil {
		keys = make(map[string]any)
	}
	for k, v := range before {
		if _, ok := keys[k]; !ok {
			keys[k] = v
		}
	}
	for _, k := range policy.SortKeys(keys) {
		was, wasMap := before[k].(map[string]any)
		is, isMap := after[k].(map[string]any)
		if wasMap || isMap {
			list = append(list, changedKeys(path+k+".", was, is)...)
			continue
		}
		a, errA := json.Marshal(before[k])
		b, errB := json.Marshal(after[k])
		if errA == nil && errB == nil && !bytes.Equal(a, b) {
			list = append(list, fmt.Sprintf("%s%s %s -> %s;", path, k, a, b))
		}
	}
	return list
}

// stored is what is in force of a resource now: nil where there is none. A cluster without one has the defaults.
func (s *Server) stored(kind string, value []byte) (map[string]any, error) {
	switch {
	case kind == kindCluster && value == nil:
		c := policy.Cluster{Name: s.info.Cluster}
		return c.ToMap(), nil
	case kind == kindCluster:
		c, err := decodeCluster(value)
		return c.ToMap(), err
	case value == nil:
		return nil, nil
	}
	role, err := decodeRole(value)
	return role.ToMap(), err
}

func sameJSON(fields map[string]any, value []byte) bool {
	b, err := json.Marshal(fields)
	return err == nil && bytes.Equal(b, value)
}

// fits refuses roles that would make a device's policy too large to be sent: the device would keep the one it has, and be
// reached by who no longer may.
func (s *Server) fits(list []resource) error {
	config, roles := s.view.cluster(), slices.Clone(s.view.givenRoles())
	for _, one := range list {
		if one.role == nil {
			continue
		}
		roles = slices.DeleteFunc(roles, func(r policy.Role) bool { return r.Name == one.name })
		roles = append(roles, *one.role)
	}
	roles = config.Apply(roles)
	if policy.FitsAnyDevice(roles) {
		return nil
	}
	for _, d := range s.view.allDevices() {
		if _, err := policy.Compile(0, roles, d.policy()).Encode(); err != nil {
			return fmt.Errorf("the policy of device %s: %w; let fewer roles concern it, or give them shorter lists", d.Name, err)
		}
	}
	return nil
}

// mayAdmin is the check of the access table, for what depends on what a call holds.
func (s *Server) mayAdmin(c caller, resource, verb string) error {
	if policy.MayAdmin(c.roles, resource, verb).Allowed {
		return nil
	}
	s.record(Event{Type: "admin.refuse", Actor: c.String(), Source: c.addr, Via: c.via, Object: resource, Reason: "roles"})
	return api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED,
		"your roles do not allow to %s a %s; an admin can add the rule {resources: [%s], verbs: [%s]} to one of them", verb, resource, resource, verb)
}

// Get answers resources as YAML, as Apply takes them.
func (s adminService) Get(ctx context.Context, req *connect.Request[api.GetRequest]) (*connect.Response[api.GetResponse], error) {
	name := req.Msg.Name
	var list []map[string]any
	switch req.Msg.Kind {
	case "role", "roles":
		roles := s.view.givenRoles()
		if name != "" {
			if roles = pick(roles, []string{name}); len(roles) == 0 {
				return nil, notFound("no role %q; `hawser role ls` lists them", wire.Quote(name, 64))
			}
		}
		for _, r := range roles {
			list = append(list, r.ToMap())
		}
	case kindCluster:
		if err := s.mayAdmin(callerOf(ctx), "cluster", "get"); err != nil {
			return nil, err
		}
		c := s.view.cluster()
		if c.Name = s.info.Cluster; name != "" && name != c.Name {
			return nil, notFound("no cluster %q; this one is %s", wire.Quote(name, 64), c.Name)
		}
		list = append(list, c.ToMap())
	default:
		return nil, invalid("kind %q is not known; give role or cluster", wire.Quote(req.Msg.Kind, 40))
	}
	text, err := writeYAML(list...)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&api.GetResponse{Yaml: text}), nil
}

// ListRoles answers the roles in short.
func (s policyService) ListRoles(context.Context, *connect.Request[api.ListRolesRequest]) (*connect.Response[api.ListRolesResponse], error) {
	holders := make(map[string][]string)
	for _, u := range s.view.allUsers() {
		for _, r := range u.Roles {
			holders[r] = append(holders[r], u.Name)
		}
	}
	res := &api.ListRolesResponse{}
	for _, r := range s.view.givenRoles() {
		_, builtin := policy.Builtin(r.Name)
		one := &api.RoleSummary{
			Name: r.Name, Builtin: builtin, Users: holders[r.Name], Pending: policy.Pending(r),
			Logins: r.Allow.Logins, Channels: r.Allow.Channels, Ways: r.Allow.Ways,
		}
		if len(r.Allow.Devices) > 0 {
			one.Devices = policy.Labels(r.Allow.Devices)
		}
		res.Roles = append(res.Roles, one)
	}
	return connect.NewResponse(res), nil
}

// RemoveRole removes a role that nobody holds or, forced, takes it from who does: a name that users keep would be theirs again
// once a role of that name is made anew.
func (s policyService) RemoveRole(
	ctx context.Context, req *connect.Request[api.RemoveRoleRequest],
) (*connect.Response[api.RemoveRoleResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if _, builtin := policy.Builtin(r.Name); builtin {
		return nil, invalid("role %s is built in and stays; take it from users with `hawser user set-roles`", r.Name)
	}
	done, err := s.rolesTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	key := rolePrefix + r.Name
	res, voids := &api.RemoveRoleResponse{}, &voiding{s: s.Server}
	err = retryConflict(ctx, func() error {
		res.Users = nil
		kv, err := s.state.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			return notFound("no role %q; `hawser role ls` lists them", wire.Quote(r.Name, 64))
		}
		if err != nil {
			return err
		}
		users, err := list[userRecord](ctx, s.Server, userPrefix)
		if err != nil {
			return err
		}
		conds, ops := []store.Cond{store.IfModRev(key, kv.ModRev)}, []store.Op{store.Delete(key)}
		for _, u := range users {
			if !slices.Contains(u.Roles, r.Name) {
				continue
			}
			var now userRecord
			rev, err := s.get(ctx, userPrefix+u.Name, &now)
			if err != nil {
				return err
			}
			now.Roles = slices.DeleteFunc(now.Roles, func(role string) bool { return role == r.Name })
			conds, ops = append(conds, store.IfModRev(userPrefix+u.Name, rev)), append(ops, put(userPrefix+u.Name, now))
			res.Users = append(res.Users, u.Name)
		}
		if len(res.Users) > 0 && !r.Force {
			return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED,
				"%s has role %s; take it from them with `hawser user set-roles`, or remove it with --force, which does", some(res.Users, 10), r.Name)
		}
		if len(res.Users) > 0 {
			if err := s.mayTake(c, r.Name, users); err != nil {
				return err
			}
		}
		// What certificates say of roles is old then: those who took a role along must come back.
		if voids.users = res.Users; len(voids.users) > 0 {
			_, cond, op, err := s.lockChange(ctx, voids.change)
			if err != nil {
				return err
			}
			conds, ops = append(conds, cond), append(ops, op)
		}
		return s.commit(ctx, conds, ops...)
	})
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "admin.role.remove", Actor: c.String(), Source: c.addr, Via: c.via, Object: r.Name})
	for _, name := range res.Users {
		s.record(Event{Type: "admin.user.role", Actor: c.String(), Source: c.addr, Via: c.via, Object: name, Reason: "role " + r.Name + " was removed"})
	}
	if len(voids.users) > 0 {
		if err := voids.done(ctx); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(res), nil
}

// mayTake tells whether the caller may take a role from everybody: as he could from each, and somebody is left who gives roles.
func (s *Server) mayTake(c caller, role string, users []userRecord) error {
	if err := s.mayAdmin(c, "user", "update"); err != nil {
		return err
	}
	all, _ := s.view.policies()
	before, after := false, false
	for _, u := range users {
		left := slices.DeleteFunc(slices.Clone(u.Roles), func(name string) bool { return name == role })
		before, after = before || givesRoles(pick(all, u.Roles)), after || givesRoles(pick(all, left))
		if len(left) == len(u.Roles) {
			continue
		}
		if err := mayManage(c, pick(all, u.Roles)); err != nil {
			return err
		}
	}
	if before && !after {
		return errLastAdmin
	}
	return nil
}

// some names the first n of a list.
func some(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:n], ", "), len(list)-n)
}
