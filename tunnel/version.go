package tunnel

// version is set by the linker: -X hawser/tunnel.version=v1.2.3.
var version string

// Version is the release a program was built as, "dev" where the build did not
// say.
func Version() string {
	if version == "" {
		return "dev"
	}
	return version
}
