//! Using buckets.

use tidemill_sdk::{Failure, Output, Result, keyvalue};

pub(crate) fn act(command: &str, argument: &str) -> Result {
    let parts: Vec<_> = argument.splitn(3, ' ').collect();
    match (command, &parts[..]) {
        ("keys", [bucket]) => Ok(vec![Output::new("out.keys", keyvalue::open(bucket)?.keys()?.join(" "))]),
        ("read", [bucket, key]) => {
            let value = keyvalue::open(bucket)?.get(key)?;
            Ok(value.into_iter().map(|value| Output::new("out.value", value)).collect())
        }
        ("write", [bucket, key, value]) => {
            keyvalue::open(bucket)?.set(key, value)?;
            Ok(Vec::new())
        }
        ("delete", [bucket, key]) => {
            keyvalue::open(bucket)?.delete(key)?;
            Ok(Vec::new())
        }
        ("add", [bucket, key, delta]) => {
            let sum = keyvalue::open(bucket)?.increment(key, delta.parse()?)?;
            Ok(vec![Output::new("out.value", sum.to_string())])
        }
        _ => Err(Failure::reject(format!("{command} {argument:?}: too few words or too many"))),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_sdk::testing;

    use super::act;

    #[test]
    fn keys_are_read_and_changed() {
        testing::set_value("b", "a", "1");
        assert_eq!(act("add", "b a 2").expect("added")[0].payload, b"3");
        assert!(act("write", "b c some words").expect("written").is_empty());
        assert_eq!(act("read", "b c").expect("read")[0].payload, b"some words");
        assert_eq!(act("keys", "b").expect("read")[0].payload, b"a c");
        assert!(act("delete", "b c").is_ok() && act("read", "b c").expect("read").is_empty());
        assert!(act("read", "b").is_err());
    }
}
