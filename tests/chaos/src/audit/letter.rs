//! Dead letters as the audits see them, and whether their history can be.

use tidemill_policy::history::Kind;

/// A dead letter.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// The payload as it is stored.
    pub(crate) payload: String,
    /// The handler, as its header says.
    pub(crate) handler: String,
    /// The number of the last attempt, as its header says.
    pub(crate) attempt: u32,
    /// The attempts in its history and how they failed, in order.
    pub(crate) history: Vec<(u32, Kind)>,
    /// How many entries were dropped from its middle to bound its size.
    pub(crate) dropped: u32,
}

/// What an event may have gone through before it is given up.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    /// After how many failed attempts it is given up.
    pub(crate) attempts_max: u32,
    /// How its attempts fail, besides being lost or taking too long.
    pub(crate) kinds: Vec<Kind>,
    /// Whether it may be given up before all attempts are used up.
    pub(crate) is_rejected: bool,
}

impl Letter {
    /// How many of the attempts in it are said to have been lost.
    pub(crate) fn lost(&self) -> u64 {
        self.history.iter().filter(|(_, kind)| *kind == Kind::Lost).count() as u64
    }

    /// What it says, for people.
    pub(crate) fn tell(&self) -> String {
        let entries: Vec<_> = self.history.iter().map(|(attempt, kind)| format!("{attempt} {kind}")).collect();
        format!("attempt {} [{}], {} dropped", self.attempt, entries.join(", "), self.dropped)
    }

    /// Checks that the history tells of each attempt from the first to the last: contiguous but for as many as it
    /// says were dropped, of the right kinds, and no longer than the policy allows.
    pub(crate) fn check_history(&self, allowed: &Allowed) -> Result<(), String> {
        self.check_attempts()?;
        let (most, last) = (allowed.attempts_max, self.attempt);
        if last > most {
            return Err(format!("attempted {last} times, which is more than {most}"));
        }
        // On a busy machine, an attempt may take longer than it may before it does what it does. The last attempt
        // that is allowed is said to have used them up where it was lost.
        let is_expected = |&(attempt, kind): &(u32, Kind)| {
            allowed.kinds.contains(&kind)
                || matches!(kind, Kind::Lost | Kind::Timeout)
                || (kind == Kind::Attempts && attempt == most && attempt == last)
        };
        if let Some((attempt, kind)) = self.history.iter().find(|entry| !is_expected(entry)) {
            return Err(format!("attempt {attempt} is said to have failed as {kind}"));
        }
        let is_used_up = last == most || allowed.is_rejected;
        if is_used_up { Ok(()) } else { Err(format!("given up after {last} of {most} attempts")) }
    }

    fn check_attempts(&self) -> Result<(), String> {
        let attempts: Vec<u32> = self.history.iter().map(|(attempt, _)| *attempt).collect();
        let (Some(&first), Some(&last)) = (attempts.first(), attempts.last()) else { return Err("empty".into()) };
        if first != 1 {
            return Err(format!("begins with attempt {first}"));
        }
        let mut missing = 0;
        for pair in attempts.windows(2) {
            let Some(between) = pair[1].checked_sub(pair[0] + 1) else {
                return Err(format!("attempt {} follows on {}", pair[1], pair[0]));
            };
            missing += between;
        }
        if missing != self.dropped {
            return Err(format!("{missing} attempts are missing and {} are said to be", self.dropped));
        }
        if last != self.attempt {
            return Err(format!("ends with attempt {last} of {}", self.attempt));
        }
        Ok(())
    }
}
