"""The cases that every language's kit must handle alike (tests/integration/languages.rs): the event says what to do."""

from typing import Any, NoReturn

from tidemill import Event, Output, Outputs, Reject, Retry, config, log


def handle(event: Event) -> Outputs:
    if not event.payload:
        return out({"empty": True})
    asked = event.json()
    if not isinstance(asked, dict) or not isinstance(asked.get("do"), str):
        raise Reject('the payload is no JSON object with a text "do"')
    return answer(event, asked)


def answer(event: Event, asked: dict[str, Any]) -> Outputs:
    match asked["do"]:
        case "echo":
            return Output("out.case", event.payload, "case.echoed", "application/json", [("x-case", "echo")])
        case "many":
            return [out({"index": index}) for index in range(asked["count"])]
        case "retry":
            raise Retry("busy", code=503, after_ms=250)
        case "reject":
            raise Reject("no good", code=422, detail="because")
        case "describe":
            return out(describe(event))
        case "text":
            return out({"text": asked["text"], "length": len(asked["text"])})
        case "config":
            return out({"value": config.get(asked["key"])})
        case "log":
            log.info(asked["text"])
            print("printed", asked["text"])
            return None
        case "panic":
            inner_of_the_case()
        case "loop":
            while True:
                pass
        case "hog":
            hog()
        case verb:
            raise Reject(f"unknown: {verb}")


def out(value: Any) -> Output:
    return Output.json("out.case", value)


def describe(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "subject": event.subject,
        "attempt": event.attempt,
        "correlation": event.correlation_id,
        "headers": event.headers,
        "size": len(event.payload),
    }


def inner_of_the_case() -> NoReturn:
    raise RuntimeError("asked to panic")


def hog() -> NoReturn:
    taken = []
    while True:
        taken.append(bytearray(b"\x01" * (1024 * 1024)))
