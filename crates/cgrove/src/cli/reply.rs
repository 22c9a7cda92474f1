//! What a daemon answers to commands: is it an answer at all, and in whose words is it an error?

use std::time::Duration;

use serde_json::Value;

use crate::exit::Exit;

/// What answers a command of the protocol, or the message of a subscription; what the daemon calls an error is one.
pub(super) fn understood(place: &str, what: &str, text: &str) -> Result<Value, Exit> {
    let value: Value =
        serde_json::from_str(text).map_err(|e| stranger(place, &format!("what it sent is not JSON: {e}")))?;
    match value.get("error") {
        Some(Value::String(error)) => Err(Exit::unavailable(error.clone())),
        None if fits(what, &value) => Ok(value),
        _ => Err(stranger(place, &format!("what it sent is no answer to {what}"))),
    }
}

/// Has the value what every daemon's has?
pub(super) fn fits(what: &str, value: &Value) -> bool {
    match what {
        "get_status" => value["version"].is_string() && value["node"].is_string() && value["pid"].is_u64(),
        "list_groups" => value["groups"].is_array(),
        "get_events" => value["events"].is_array(),
        "subscribe" => value["subscribed"].is_string(),
        "unsubscribe" => value["unsubscribed"].is_string(),
        SUBSCRIPTION => value["subscription"].is_string(),
        // Without slots it is empty.
        "show_account" => value.as_object().is_some_and(|slots| slots.keys().all(|slot| slot.parse::<u64>().is_ok())),
        _ => value.is_object(),
    }
}

/// Messages that come by themselves.
pub(super) const SUBSCRIPTION: &str = "a subscription";

/// Something else listens there.
pub(super) fn stranger(place: &str, why: &str) -> Exit {
    Exit::unavailable(format!("{place}: this is not a cgrove daemon: {why}; name another with --url or server.listen"))
}

pub(super) fn silent(place: &str, patience: Duration) -> Exit {
    Exit::unavailable(format!("{place}: no answer within {} s", patience.as_secs()))
}

/// What the daemon says of a request's arguments, in the words of the command line.
pub(super) fn typed(error: Exit) -> Exit {
    if !error.message.contains("args.") {
        return error;
    }
    let words = [("args.nr_slot", "--slots"), ("args.nr", "--number"), ("args.", "--")];
    Exit::usage(words.into_iter().fold(error.message, |text, (theirs, ours)| text.replace(theirs, ours)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reply_has_what_every_daemons_has() {
        let status = r#"{"version":"0.1.0","node":"n1","pid":7}"#;
        let good = [
            ("get_status", status),
            ("get_events", r#"{"newest":0,"events":[]}"#),
            ("list_groups", r#"{"groups":[]}"#),
            ("subscribe", r#"{"subscribed":"events"}"#),
            ("show_account", "{}"),
            ("show_account", r#"{"12":{}}"#),
            (SUBSCRIPTION, r#"{"subscription":"slots","slot":1,"value":{}}"#),
        ];
        for (what, text) in good {
            assert!(understood("x", what, text).is_ok(), "{what} {text}");
        }
        for what in ["get_status", "get_events", "list_groups", "subscribe", "unsubscribe", SUBSCRIPTION] {
            for text in
                ["{}", "[]", "null", "7", "", "\"x\"", r#"{"version":null}"#, r#"{"error":null}"#, r#"{"events":1}"#]
            {
                let error = understood("ws://x", what, text).unwrap_err();
                assert!(
                    error.code == 69 && error.message.contains("ws://x: this is not a cgrove daemon"),
                    "{what} {text}"
                );
            }
        }
        assert!(
            understood("x", "show_account", "[]").is_err() && understood("x", "show_account", r#"{"a":1}"#).is_err()
        );
    }

    #[test]
    fn an_error_is_the_users_where_it_names_an_argument() {
        let told =
            |error: &str| typed(understood("x", "get_events", &json!({ "error": error }).to_string()).unwrap_err());
        assert_eq!((told("args.nr is too large").code, told("no document is in force").code), (64, 69));
        assert_eq!(told("args.nr is too large").message, "--number is too large");
    }
}
