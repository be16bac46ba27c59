//! Real tidemill processes on one manifest, as an operator runs them.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::cli::Desk;
use crate::support::eventually;

/// The processes. Dropping it kills them.
pub(crate) struct Fleet {
    desk: Desk,
    children: Vec<Child>,
    started: usize,
}

impl Fleet {
    pub(crate) fn new(manifest: &str) -> Fleet {
        Fleet { desk: Desk::with_guests(manifest), children: Vec::new(), started: 0 }
    }

    /// Starts one more, and waits until `tidemill status` shows that all are ready.
    pub(crate) async fn start(&mut self) {
        let log = std::fs::File::create(self.desk.folder().join(format!("{}.log", self.started))).expect("a log");
        let mut command = Command::from(self.desk.command(&["run", "--output", "json"]));
        command.env("TIDEMILL_LOG", "info,tidemill::event=debug");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.children.push(command.spawn().expect("tidemill starts"));
        self.started += 1;
        let count = self.children.len();
        eventually(&format!("{count} instances are ready"), || async {
            let ready = self.instances("plain").iter().filter(|one| one["ready"] == true).count();
            (ready == count).then_some(())
        })
        .await;
    }

    /// Kills the first of them at once, as a crash would.
    pub(crate) async fn kill(&mut self) {
        self.children.remove(0).kill().await.expect("killed");
    }

    /// Asks the first of them to stop, and waits until it has drained.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.children.remove(0);
        let pid = child.id().expect("it runs");
        Command::new("kill").arg(pid.to_string()).status().await.expect("kill starts");
        let status = child.wait().await.expect("it ends");
        assert!(status.success(), "{status}: {}", self.logs());
    }

    /// What `tidemill status` tells of the instances that run a handler.
    pub(crate) fn instances(&self, handler: &str) -> Vec<Value> {
        let run = self.desk.run(&["status", "--output", "json"]);
        if run.exit != 0 {
            return Vec::new();
        }
        let rows = run.json();
        let row = rows.as_array().expect("rows").iter().find(|row| row["handler"] == handler).expect("its row").clone();
        row["instances"].as_array().expect("instances").clone()
    }

    /// What all of them have logged.
    pub(crate) fn logs(&self) -> String {
        let path = |number: usize| self.desk.folder().join(format!("{number}.log"));
        (0..self.started).map(|number| std::fs::read_to_string(path(number)).expect("a log")).collect()
    }
}
