//! A component as wasmCloud's users write them: it knows nothing of tidemill. What it does is for the body to say.

#[allow(missing_docs, unsafe_code, clippy::pedantic, reason = "the code is generated")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({ path: "wit", world: "hello", generate_all });
    export!(Component);
}

use bindings::exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use bindings::wasmcloud::messaging::consumer;

struct Component;

impl Guest for Component {
    fn handle_message(msg: BrokerMessage) -> Result<(), String> {
        let text = String::from_utf8(msg.body).map_err(|error| format!("reject: {error}"))?;
        let (command, argument) = text.split_once(' ').unwrap_or((&text, ""));
        match command {
            "echo" => publish(argument, None),
            "echo-subject" => publish(&msg.subject, None),
            "echo-then-fail" => publish(argument, None).and_then(|()| Err("not now".to_owned())),
            "many" => (0..argument.parse().unwrap_or(0)).try_for_each(|number: u32| publish(&number.to_string(), None)),
            "answer" => publish(argument, Some("somewhere".to_owned())),
            "request" => consumer::request("other.service", b"?", 100).map(|_| ()),
            "reject" => Err(format!("reject: {argument}")),
            _ => Err(format!("unknown: {command}")),
        }
    }
}

fn publish(text: &str, reply_to: Option<String>) -> Result<(), String> {
    consumer::publish(&BrokerMessage { subject: "out.relayed".to_owned(), body: text.into(), reply_to })
}
