// Package shell is what the hub itself says to a person: a picker of the devices he may reach ([Picker]), the list of them ([List]), the
// near names of one that is not there ([Near]) and the help. It knows no SSH, no policy and no file: it is given devices, keys and a
// writer, and has no way to the hub's environment, terminal or signals. Names and labels are strangers' words and are quoted wherever they
// are shown.
package shell
