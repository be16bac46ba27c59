//! Which version of a component is run, by what is on disk and what is remembered of earlier versions.

use serde::{Deserialize, Serialize};

use crate::manifest::Reload;

/// What is remembered of a handler's versions. A version is named by the digest of its component.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The last version that was kept.
    pub kept: Option<String>,
    /// The version that is run although another one is in the folder.
    pub pin: Option<Pin>,
}

/// A version that is run instead of the one in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The version that is run.
    pub digest: String,
    /// The version in the folder that it is run instead of; any other file ends the pin.
    pub instead_of: String,
    /// Why, for people.
    pub why: String,
}

/// Which version is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The one in the folder, for good.
    Run {
        /// It.
        digest: String,
    },
    /// The one in the folder, watched, and the one before to go back to.
    Trial {
        /// The one in the folder.
        new: String,
        /// The last one that was kept.
        old: String,
    },
    /// An earlier one instead of the one in the folder, which was gone back from.
    Pinned {
        /// The earlier one.
        digest: String,
        /// The one in the folder.
        instead_of: String,
        /// Why, for people.
        why: String,
    },
}

/// Chooses the version to run. `file` is the version in the folder; `stored` tells whether a version is in the store of
/// versions, without which it can neither be run instead nor be gone back to.
///
/// A pin holds until another file is put into the folder. A file that was not kept yet is on trial, also after a restart
/// in the middle of its trial: whoever kills a bad version's process does not thereby keep it.
pub fn choose(file: &str, kept: &Kept, stored: impl Fn(&str) -> bool, policy: &Reload) -> Choice {
    if let Some(Pin { digest, instead_of, why }) = &kept.pin
        && instead_of == file
        && stored(digest)
    {
        return Choice::Pinned { digest: digest.clone(), instead_of: instead_of.clone(), why: why.clone() };
    }
    match &kept.kept {
        Some(old) if old != file && policy.guard.is_some() && stored(old) => {
            Choice::Trial { new: file.to_owned(), old: old.clone() }
        }
        _ => Choice::Run { digest: file.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrival::fixtures::handler;

    fn run(digest: &str) -> Choice {
        Choice::Run { digest: digest.into() }
    }

    fn trial(new: &str, old: &str) -> Choice {
        Choice::Trial { new: new.into(), old: old.into() }
    }

    fn pinned(digest: &str, instead_of: &str) -> Choice {
        Choice::Pinned { digest: digest.into(), instead_of: instead_of.into(), why: "it failed".into() }
    }

    #[test]
    fn what_is_on_disk_decides() {
        #[track_caller]
        fn check(kept: Option<&str>, pin: Option<(&str, &str)>, stored: &[&str], has_guard: bool, expected: &Choice) {
            let pin = pin.map(|(digest, instead_of)| Pin {
                digest: digest.into(),
                instead_of: instead_of.into(),
                why: "it failed".into(),
            });
            let kept = Kept { kept: kept.map(str::to_owned), pin };
            let usual = handler().reload;
            let policy = Reload { guard: usual.guard.filter(|_| has_guard), ..usual };
            assert_eq!(choose("new", &kept, |digest| stored.contains(&digest), &policy), *expected);
        }
        let all = ["new", "old", "older"];
        // The first start, and one of the version that was kept.
        check(None, None, &[], true, &run("new"));
        check(None, None, &all, true, &run("new"));
        check(Some("new"), None, &all, true, &run("new"));
        // Another file than the one that was kept.
        check(Some("old"), None, &all, true, &trial("new", "old"));
        check(Some("old"), None, &["new"], true, &run("new"));
        check(Some("old"), None, &all, false, &run("new"));
        // After going back.
        check(Some("old"), Some(("old", "new")), &all, true, &pinned("old", "new"));
        check(Some("old"), Some(("old", "new")), &["old"], false, &pinned("old", "new"));
        check(Some("old"), Some(("older", "new")), &all, true, &pinned("older", "new"));
        check(None, Some(("old", "new")), &all, true, &pinned("old", "new"));
        // Another file ends the pin, and so does the loss of the pinned version.
        check(Some("old"), Some(("old", "bad")), &all, true, &trial("new", "old"));
        check(Some("new"), Some(("old", "bad")), &all, true, &run("new"));
        check(Some("old"), Some(("older", "new")), &["old"], true, &trial("new", "old"));
        check(Some("old"), Some(("old", "new")), &["new"], true, &run("new"));
    }
}
