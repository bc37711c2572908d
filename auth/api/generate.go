package api

// The plugins come from go.mod's tool lines, so that what is generated does not
// depend on the machine; `make proto` runs this.
//go:generate sh -c "cd ../.. && protoc -I auth/api --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-connect-go=$(go tool -n protoc-gen-connect-go) --go_out=. --go_opt=module=hawser --connect-go_out=. --connect-go_opt=module=hawser auth/api/*.proto"
