package policy

// EnvironmentLabels are the labels that say what a device is for; the first that is there counts.
var EnvironmentLabels = []string{"env", "environment", "stage"}
