//! How an event enters a component: by the handler interface that it exports.

use tidemill_policy::event::Event;
use wasmtime::Store;
use wasmtime::component::InstancePre;

use super::bindings::messaging::{Messaging, MessagingPre};
use super::bindings::tidemill::handler::types::{self, Failure, Output};
use super::bindings::{Plugin, PluginPre};
use super::link::State;
use super::messaging;
use super::offer::{self, SERVED};

/// A component, linked, whose handler interface is known.
pub(super) enum EntryPre {
    /// It exports ours.
    Plugin(PluginPre<State>),
    /// It exports wasmCloud's.
    Messaging(MessagingPre<State>),
}

/// An instance of it.
pub(super) enum Entry {
    /// It exports ours.
    Plugin(Plugin),
    /// It exports wasmCloud's.
    Messaging(Messaging),
}

impl EntryPre {
    /// The way into a component by an interface that is served.
    ///
    /// # Errors
    /// Where it does not export what it has to.
    pub(super) fn new(pre: InstancePre<State>, interface: &str) -> wasmtime::Result<EntryPre> {
        if offer::are_compatible(SERVED, interface) {
            PluginPre::new(pre).map(EntryPre::Plugin)
        } else {
            MessagingPre::new(pre).map(EntryPre::Messaging)
        }
    }

    /// Makes an instance.
    ///
    /// # Errors
    /// Where the component's start traps, or something of it finds no room.
    pub(super) async fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Entry> {
        match self {
            EntryPre::Plugin(pre) => pre.instantiate_async(store).await.map(Entry::Plugin),
            EntryPre::Messaging(pre) => pre.instantiate_async(store).await.map(Entry::Messaging),
        }
    }
}

impl Entry {
    /// Calls the handler.
    ///
    /// # Errors
    /// Where it traps, or is ended by the host.
    pub(super) async fn call(
        &self,
        store: &mut Store<State>,
        event: &Event,
    ) -> wasmtime::Result<Result<Vec<Output>, Failure>> {
        match self {
            Entry::Plugin(plugin) => plugin.tidemill_handler_handler().call_handle(store, guest_event(event)).await,
            Entry::Messaging(component) => {
                store.data_mut().held.clear();
                let handler = component.wasmcloud_messaging_handler();
                let returned = handler.call_handle_message(&mut *store, messaging::message(event)).await?;
                Ok(store.data_mut().held.end(returned))
            }
        }
    }
}

/// The event as the guest gets it: borrowed, so that each byte is copied once, into the guest's memory.
fn guest_event(event: &Event) -> types::Event<'_> {
    types::Event {
        id: &event.id,
        subject: &event.subject,
        kind: event.kind.as_deref(),
        source: event.source.as_deref(),
        time_ms: event.time_ms,
        content_type: event.content_type.as_deref(),
        correlation_id: &event.correlation_id,
        causation_id: event.causation_id.as_deref(),
        attempt: event.attempt.get(),
        max_attempts: event.max_attempts,
        headers: &event.headers,
        payload: &event.payload,
    }
}
