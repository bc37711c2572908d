package login

const (
	// maxName is the longest login in bytes: useradd's limit is 32, LOGIN_NAME_MAX 256.
	maxName = 256
	// maxLine is the longest line taken from an account file; a group with thousands of members still fits.
	maxLine = 256 << 10
	// maxGroups bounds supplementary groups; the kernel takes 65536, more than a few hundred are a mistake.
	maxGroups = 1024
)
