package tidemill

// The contract's types (wit/handler.wit) as they lie in memory: addresses have 32 bits.

type rawString struct{ ptr, len uint32 }

type rawOptionString struct {
	isSome uint8
	value  rawString
}

type rawOptionU64 struct {
	isSome uint8
	value  uint64
}

type rawOption32 struct {
	isSome uint8
	value  uint32
}

type rawHeader struct{ name, value rawString }

// rawList is a list of records, or a list of bytes.
type rawList struct{ ptr, len uint32 }

type rawEvent struct {
	id, subject   rawString
	kind, source  rawOptionString
	timeMs        rawOptionU64
	contentType   rawOptionString
	correlationId rawString
	causationId   rawOptionString
	attempt       uint32
	maxAttempts   uint32
	headers       rawList
	payload       rawList
}

type rawOutput struct {
	subject           rawString
	kind, contentType rawOptionString
	headers           rawList
	payload           rawList
}

type rawError struct {
	code    rawOption32
	message rawString
	detail  rawOptionString
}

const (
	rawRetry  = 0
	rawReject = 1
)

type rawFailure struct {
	verdict uint8
	error   rawError
	delay   rawOption32 // of rawRetry only
}

// rawResult is either outputs or a failure; outputs lie where the failure begins.
type rawResult struct {
	isFailure uint8
	failure   rawFailure
}
