//! Sends a welcome mail to whoever has registered, through a mail API that is only pretended.
//!
//! Input, on `registration.welcome_email`: `{"user_id": 7, "email": "ann@example.org", "name": "Ann"}`,
//! usually the payload of a queue message. Output, on `mail.sent`: what was sent to whom. The sender's
//! address is the setting `from`.

mod address;
mod mail_api;

use serde::{Deserialize, Serialize};
use tidemill_sdk::{Event, Failure, Output, Result, config, handler, log};

use crate::mail_api::{Mail, Refused};

#[derive(Deserialize)]
struct Registered {
    user_id: u64,
    email: String,
    name: String,
}

#[derive(Serialize)]
struct MailSent<'a> {
    message_id: &'a str,
    user_id: u64,
    from: &'a str,
    to: &'a str,
    subject: &'a str,
}

/// Sends one welcome mail.
///
/// # Errors
///
/// Rejects a malformed payload and a bad address; retries when the mail API refuses for now.
#[allow(clippy::needless_pass_by_value, reason = "a handler owns its event")]
pub fn handle(event: Event) -> Result<Output> {
    let Registered { user_id, email, name } = event.json()?;
    if let Err(why) = address::check(&email) {
        return Err(Failure::reject(format!("{email:?} is not a mail address: {why}")));
    }
    let from = config::require("from")?;
    let mail =
        Mail { id: format!("welcome-{}", event.id), from, to: email, subject: format!("Welcome, {}!", name.trim()) };
    mail_api::send(&mail, event.attempt).map_err(|Refused { status, message }| {
        Failure::retry(format!("the mail API refused: {message}")).code(status)
    })?;
    log::info!("welcomed user {user_id} as {}", mail.id);
    let sent = MailSent { message_id: &mail.id, user_id, from: &mail.from, to: &mail.to, subject: &mail.subject };
    Ok(Output::json("mail.sent", &sent)?.kind("mail.sent"))
}

handler!(handle);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemill_sdk::{Event, Failure, testing};

    use super::handle;

    fn event(email: &str) -> Event {
        testing::set_config([("from", "hello@example.org")]);
        let payload = json!({"user_id": 7, "email": email, "name": "Ann"});
        testing::event("registration.welcome_email", payload.to_string())
    }

    #[test]
    fn a_good_address_gets_one_mail() {
        let output = handle(event("ann@example.org")).expect("the mail is sent");
        assert_eq!(output.subject, "mail.sent");
        assert_eq!(output.kind.as_deref(), Some("mail.sent"));
        let sent: Value = serde_json::from_slice(&output.payload).expect("the output is JSON");
        let expected = json!({
            "message_id": "welcome-event-1",
            "user_id": 7,
            "from": "hello@example.org",
            "to": "ann@example.org",
            "subject": "Welcome, Ann!",
        });
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_bad_address_is_rejected() {
        assert!(matches!(handle(event("ann")), Err(Failure::Reject(_))));
    }

    #[test]
    fn a_malformed_payload_is_rejected() {
        let event = testing::event("registration.welcome_email", r#"{"user_id": "seven"}"#);
        assert!(matches!(handle(event), Err(Failure::Reject(_))));
    }

    #[test]
    fn a_refusal_is_retried_until_the_quota_is_free() {
        let mut event = event("ann+quota2@example.org");
        for attempt in 1..=2 {
            event.attempt = attempt;
            let failure = handle(event.clone()).expect_err("the quota is exceeded");
            assert_eq!(failure.error().code, Some(429));
            assert_eq!(failure.error().message, "the mail API refused: quota exceeded");
            assert!(matches!(failure, Failure::Retry { .. }));
        }
        event.attempt = 3;
        assert!(handle(event).is_ok());
    }

    #[test]
    fn a_missing_sender_is_retried() {
        let event = event("ann@example.org");
        testing::set_config([]);
        assert!(matches!(handle(event), Err(Failure::Retry { .. })));
    }
}
