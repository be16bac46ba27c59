package tidemill

import "fmt"

// A Level says how urgent a log line is.
type Level uint8

// The levels of wasi:logging.
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
	Critical
)

// Log emits a line, which the host marks with handler, event and attempt. Arguments as of [fmt.Sprintf].
func Log(level Level, format string, arguments ...any) {
	logLine(level, "handler", fmt.Sprintf(format, arguments...))
}

// Config returns the value of a setting of the handler's config or secrets, and whether there is one.
func Config(key string) (string, bool) { return config(key) }

// RequireConfig returns the value of a setting that the handler cannot do without. Its error is a retry that names
// the setting: an operator can add it before the attempts are used up.
func RequireConfig(key string) (string, error) {
	value, found := config(key)
	if !found {
		return "", Retry("the setting %q is missing; add it to the handler's config or secrets", key)
	}
	return value, nil
}
