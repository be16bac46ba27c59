//! Which schemas payloads must fit.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemill_policy::manifest::SchemaPolicy;

/// The schemas, by their files.
#[derive(Debug, Serialize)]
pub(super) struct Contract {
    default: Option<String>,
    /// What a version is told by; `None` where there are no versions.
    by: Option<String>,
    versions: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
}

impl Contract {
    /// The schemas of a policy that has any.
    pub(super) fn of(policy: &SchemaPolicy) -> Option<Contract> {
        let shown = |files: &BTreeMap<String, std::path::PathBuf>| {
            files.iter().map(|(name, path)| (name.clone(), path.display().to_string())).collect()
        };
        (!policy.is_empty()).then(|| Contract {
            default: policy.default.as_ref().map(|path| path.display().to_string()),
            by: (!policy.versions.is_empty()).then(|| policy.by.to_string()),
            versions: shown(&policy.versions),
            outputs: shown(&policy.outputs),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut lines = Vec::new();
        if let Some(by) = &self.by {
            lines.extend(self.versions.iter().map(|(version, path)| format!("{path} where {by} is {version:?}")));
        }
        match (&self.default, &self.by) {
            (Some(path), None) => lines.push(path.clone()),
            (Some(path), Some(_)) => lines.push(format!("{path} for any other event")),
            (None, Some(_)) => lines.push("any other event goes to the dead letters".to_owned()),
            (None, None) => {}
        }
        lines.extend(self.outputs.iter().map(|(pattern, path)| format!("{path} for outputs on {pattern}")));
        lines.join("\n")
    }
}
