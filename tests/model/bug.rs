//! What each part of the protocol is there for: leave it out, and the model must find what goes wrong.

/// A part that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// A persona enters a pool that has shown no worker.
    SwitchBeforeReady,
    /// A worker asks whether it may take, and takes, in two calls.
    DrainNotAtomicWithTake,
    /// `finish` looks at the task's state and not at the fence.
    FinishWithoutFence,
    /// `route` takes the word of whoever speaks last.
    OldEpochAccepted,
    /// `close` leaves no trace of the epoch that it was for, and who opens the pool again none on its object:
    /// where one controller leads, either would do.
    CloseForgetsTheLayout,
    /// Who has closed a pool asks for it only then, and deletes what it finds.
    DeletesWhatItFinds,
    /// A pool that was closed and is opened again looks to who closed it as it did before.
    OpensWithoutAMark,
    /// A controller takes the place that it knew of for the one where a persona stayed.
    BelievesItsMemory,
}
