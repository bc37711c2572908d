package auth

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"hawser/auth/api"
)

var errSoon = connect.NewError(connect.CodeUnimplemented, errors.New("not yet"))

func (s hubService) ReportSessions(context.Context, *connect.Request[api.ReportSessionsRequest]) (*connect.Response[api.ReportSessionsResponse], error) {
	return nil, errSoon
}

func (s hubService) ReportHistory(context.Context, *connect.Request[api.ReportHistoryRequest]) (*connect.Response[api.ReportHistoryResponse], error) {
	return nil, errSoon
}

func (s hubService) ReportIncident(context.Context, *connect.Request[api.ReportIncidentRequest]) (*connect.Response[api.ReportIncidentResponse], error) {
	return nil, errSoon
}

func (s adminService) ListHubs(context.Context, *connect.Request[api.ListHubsRequest]) (*connect.Response[api.ListHubsResponse], error) {
	return nil, errSoon
}

func (s adminService) RemoveHub(context.Context, *connect.Request[api.RemoveHubRequest]) (*connect.Response[api.RemoveHubResponse], error) {
	return nil, errSoon
}
