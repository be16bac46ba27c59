package tidemill

import (
	"strings"
	"unsafe"
)

//go:wasmimport wasi:logging/logging@0.1.0-draft log
func importLog(level uint32, context unsafe.Pointer, contextLen uint32, message unsafe.Pointer, messageLen uint32)

//go:wasmimport wasi:config/store@0.2.0-rc.1 get
func importConfigGet(key unsafe.Pointer, keyLen uint32, out unsafe.Pointer)

// rawSetting is a result of an optional text or of an error, which is a variant of texts.
type rawSetting struct {
	isError uint8
	value   rawOptionString
}

// Not on the stack, which may be moved while the host allocates the value.
var setting rawSetting

func config(key string) (string, bool) {
	importConfigGet(unsafe.Pointer(unsafe.StringData(key)), uint32(len(key)), unsafe.Pointer(&setting))
	value := liftString(setting.value.value)
	releaseArguments()
	if setting.isError != 0 {
		panic("the setting " + key + " cannot be read: " + value)
	}
	return value, setting.value.isSome != 0
}

func logLine(level Level, context, message string) {
	message = strings.ToValidUTF8(message, "\uFFFD")
	importLog(uint32(level), unsafe.Pointer(unsafe.StringData(context)), uint32(len(context)),
		unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
}
