//! What a proxy cuts the controller off with: at one of its writes, so that everything it wrote before
//! has happened, and nothing after does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What happens to the write at which the controller is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The server never hears of it; all that came before it is done.
    Before,
    /// It is done, and the controller never hears of that.
    After,
}

/// Where a fuse stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything goes through.
    Off,
    /// Blows at the last of so many writes.
    At(usize, Cut),
    /// Nothing goes through.
    Blown,
}

/// A fuse in a proxy.
pub struct Fuse {
    state: Mutex<State>,
    blown: watch::Sender<bool>,
    /// At whose writes it has blown.
    servers: Mutex<Vec<&'static str>>,
}

impl Default for Fuse {
    fn default() -> Self {
        Self {
            state: Mutex::new(State::Off),
            blown: watch::Sender::default(),
            servers: Mutex::default(),
        }
    }
}

impl Fuse {
    /// Cuts off at the n-th write from now, the first being 1.
    pub fn arm(&self, number: usize, cut: Cut) {
        self.blown.send_replace(false);
        *self.state() = State::At(number, cut);
    }

    /// Lets everything through again.
    pub fn disarm(&self) {
        *self.state() = State::Off;
    }

    /// Lets everything through from now on, unless it has blown by now; whether it has.
    pub fn spare(&self) -> bool {
        let mut state = self.state();
        if *state == State::Blown {
            return true;
        }
        *state = State::Off;
        false
    }

    /// Returns when the controller is cut off.
    pub async fn blown(&self) {
        let mut blown = self.blown.subscribe();
        // The sender lives as long as this.
        blown.wait_for(|blown| *blown).await.ok();
    }

    /// The write to this server at which it blows has had its end.
    pub fn has_blown(&self, server: &'static str) {
        lock(&self.servers).push(server);
        self.blown.send_replace(true);
    }

    /// How often it has blown at a write to this server.
    pub fn times(&self, server: &str) -> usize {
        lock(&self.servers).iter().filter(|s| **s == server).count()
    }

    /// Whether nothing goes through.
    pub fn is_blown(&self) -> bool {
        *self.state() == State::Blown
    }

    /// What the fuse was when this write came.
    pub fn count(&self) -> State {
        let mut state = self.state();
        let before = *state;
        *state = match before {
            State::Off => State::Off,
            State::At(1, _) | State::Blown => State::Blown,
            State::At(left, cut) => State::At(left - 1, cut),
        };
        before
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
