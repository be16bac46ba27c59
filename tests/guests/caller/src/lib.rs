//! A guest that calls outside as its payload says, so that tests can see what the host lets it do.
//!
//! The payload is a command word, with an argument after a blank:
//!
//! | command | what it does |
//! |---|---|
//! | `get <url>`, `post <url>`, … | sends a request, and returns status and body on `out.response` |
//! | `follow <url>` | the same, and follows one redirect |
//! | `many <n> <m> <url>` | begins n requests at once, waits until m have ended, and rejects with how many were refused |
//! | `leak <url>` | begins a request and forgets about it |
//! | `keys <bucket>` | returns the keys of a bucket on `out.keys` |
//! | `read <bucket> <key>` | returns the value of a key on `out.value`, or nothing |
//! | `write <bucket> <key> <value>`, `delete <bucket> <key>` | changes a key |
//! | `add <bucket> <key> <number>` | adds to a number, and returns the sum on `out.value` |
//! | `secret <key>` | rejects the event with the value of that setting in message, detail and log |
//!
//! Anything else is rejected. What cannot be sent is rejected or retried, as the SDK sees it.

mod keys;
mod many;

use tidemill_sdk::{Event, Failure, Output, Result, config, handler, http, log};

/// Does what the payload says.
///
/// # Errors
///
/// Where a request fails, and a rejection of an unknown command.
#[allow(clippy::needless_pass_by_value, reason = "it is how handlers are called")]
pub fn handle(event: Event) -> Result {
    let text = event.text()?.to_owned();
    let (command, argument) = text.split_once(' ').unwrap_or((&text, ""));
    match command {
        "get" | "post" | "put" | "head" | "connect" => Ok(respond(&send(command, argument)?)),
        "follow" => Ok(respond(&follow(argument)?)),
        "many" => many::begin(argument),
        "leak" => many::leak(argument),
        "keys" | "read" | "write" | "delete" | "add" => keys::act(command, argument),
        "secret" => {
            let value = config::require(argument)?;
            log::warn!("the key is {value}");
            Err(Failure::reject(format!("bad key {value}")).detail(format!("sent {value} and more")))
        }
        _ => Err(Failure::reject(format!("there is no command {text:?}"))),
    }
}

fn send(method: &str, url: &str) -> Result<http::Response> {
    let method = method.to_uppercase();
    let body = if method == "POST" || method == "PUT" { "x".repeat(10_000) } else { String::new() };
    Ok(http::Request::new(method, url).header("X-Guest", "caller").body(body).send()?)
}

fn follow(url: &str) -> Result<http::Response> {
    let response = http::get(url)?;
    match response.header("location") {
        Some(location) => Ok(http::get(location)?),
        None => Ok(response),
    }
}

fn respond(response: &http::Response) -> Vec<Output> {
    let text = format!("{} {}", response.status, String::from_utf8_lossy(&response.body));
    vec![Output::new("out.response", text)]
}

handler!(handle);

#[cfg(test)]
mod tests {
    use tidemill_sdk::{Failure, http, testing};

    use super::handle;

    #[test]
    fn it_sends_what_it_is_told_to() {
        testing::serve(|request| {
            let location = vec![("Location".to_owned(), "http://b/".to_owned())];
            let headers = if request.url == "http://a/" { location } else { Vec::new() };
            let body = format!("{} {} {}", request.method, request.url, request.body.len()).into_bytes();
            Ok(http::Response { status: 200, headers, body })
        });
        for (command, expected) in [
            ("get http://a/", "200 GET http://a/ 0"),
            ("post http://a/", "200 POST http://a/ 10000"),
            ("follow http://a/", "200 GET http://b/ 0"),
        ] {
            let outputs = handle(testing::event("in.command", command)).expect("it succeeds");
            assert_eq!(String::from_utf8_lossy(&outputs[0].payload), expected);
        }
    }

    #[test]
    fn failures_are_passed_on() {
        testing::serve(|_| Err(http::Error::denied("not granted")));
        assert_eq!(handle(testing::event("in.command", "get http://a/")), Err(Failure::reject("not granted")));
        assert!(matches!(handle(testing::event("in.command", "dance")), Err(Failure::Reject(_))));
    }
}
