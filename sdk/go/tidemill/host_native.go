//go:build !wasip1

package tidemill

import (
	"fmt"
	"os"
)

var settings = map[string]string{}

// SetConfig replaces all settings that [Config] sees natively, for unit tests.
func SetConfig(all map[string]string) { settings = all }

func config(key string) (string, bool) {
	value, found := settings[key]
	return value, found
}

func logLine(level Level, context, message string) {
	names := [...]string{"trace", "debug", "info", "warn", "error", "critical"}
	fmt.Fprintf(os.Stderr, "%s %s: %s\n", names[level], context, message)
}
