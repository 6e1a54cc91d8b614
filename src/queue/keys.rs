//! Every key and channel of the queue. The functions in `lua/` build the same names from the
//! namespace prefix, which is their first key.

use sha2::{Digest, Sha256};

use super::QueueError;

/// Prefix of an installation where nothing else is configured.
pub const DEFAULT_PREFIX: &str = "persona";

/// Names of one namespace. All keys share the hash slot of `{<namespace>}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys of `namespace` in the installation `prefix`.
    ///
    /// # Errors
    /// [`QueueError::BadName`] when either holds what a key must not.
    pub fn new(prefix: &str, namespace: &str) -> Result<Self, QueueError> {
        check_name(prefix)?;
        check_name(namespace)?;
        Ok(Self {
            prefix: format!("{prefix}:{{{namespace}}}:"),
        })
    }

    /// What all keys of the namespace begin with: `<prefix>:{<namespace>}:`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Set by the controller once routes are published; missing or changed, all readings are stale.
    pub fn epoch(&self) -> String {
        self.key("epoch")
    }

    /// How many pools were closed so far.
    pub fn closings(&self) -> String {
        self.key("closings")
    }

    /// Set of the registered personas.
    pub fn personas(&self) -> String {
        self.key("personas")
    }

    /// Set of the open pools.
    pub fn pools(&self) -> String {
        self.key("pools")
    }

    /// Personas whose tasks took workers along, by the end of their quarantine.
    pub fn quarantine(&self) -> String {
        self.key("quarantine")
    }

    /// Hash of a persona: uid, configuration, route, limits, virtual time.
    pub fn persona(&self, persona: &str) -> String {
        self.join("p:", persona)
    }

    /// Sorted set of a persona's queued tasks.
    pub fn queued(&self, persona: &str) -> String {
        self.join("q:", persona)
    }

    /// Set of a persona's running tasks.
    pub fn running(&self, persona: &str) -> String {
        self.join("run:", persona)
    }

    /// Hash of a task.
    pub fn task(&self, task: &str) -> String {
        self.join("t:", task)
    }

    /// Stream of a task's chunks.
    pub fn output(&self, task: &str) -> String {
        self.join("out:", task)
    }

    /// Wake-up tokens for the workers of a pool that serve a lane.
    pub fn bell(&self, pool: &str, lane: &str) -> String {
        format!("{}bell:{pool}:{lane}", self.prefix)
    }

    /// Hash of a worker, by pod uid.
    pub fn worker(&self, worker: &str) -> String {
        self.join("w:", worker)
    }

    /// Stream of tasks that no worker survived.
    pub fn dead(&self) -> String {
        self.key("dead")
    }

    /// Channel on which a gateway hears of its tasks in this namespace.
    pub fn gateway_channel(&self, gateway: &str) -> String {
        self.join("gw:", &gateway_slot(gateway).to_string())
    }

    /// Channel on which a worker hears of cancelled tasks.
    pub fn control_channel(&self, worker: &str) -> String {
        self.join("ctl:", worker)
    }

    /// Channel on which the controller hears that a pool needs a look.
    pub fn doorbell_channel(&self) -> String {
        self.key("doorbell")
    }

    fn key(&self, name: &str) -> String {
        self.join(name, "")
    }

    fn join(&self, kind: &str, name: &str) -> String {
        format!("{}{kind}{name}", self.prefix)
    }
}

/// Key that holds the cluster id of the installation that owns the prefix.
pub fn installation(prefix: &str) -> String {
    format!("{prefix}:installation")
}

/// Set of the namespaces that have personas.
pub fn namespaces(prefix: &str) -> String {
    format!("{prefix}:namespaces")
}

/// Channels that the gateways of an installation share. Redis compares a pattern to listen to with
/// those that an ACL allows letter by letter, so all of them must be known before any gateway is.
const GATEWAY_SLOTS: u8 = 64;

/// The channel of a gateway, by a hash of its id.
pub(super) fn gateway_slot(gateway: &str) -> u8 {
    Sha256::digest(gateway)[0] % GATEWAY_SLOTS
}

/// Pattern of a gateway's channels in all namespaces.
pub fn gateway_pattern(prefix: &str, gateway: &str) -> String {
    slot_pattern(prefix, gateway_slot(gateway))
}

/// The patterns of all gateways there can be.
pub(super) fn gateway_patterns(prefix: &str) -> impl Iterator<Item = String> {
    (0..GATEWAY_SLOTS).map(move |slot| slot_pattern(prefix, slot))
}

fn slot_pattern(prefix: &str, slot: u8) -> String {
    format!("{prefix}:{{*}}:gw:{slot}")
}

/// Pattern of the doorbells of all namespaces.
pub fn doorbell_pattern(prefix: &str) -> String {
    format!("{prefix}:{{*}}:doorbell")
}

/// The namespace in a key or channel name, if it is one of this prefix.
pub fn namespace_of<'a>(prefix: &str, key: &'a str) -> Option<&'a str> {
    let rest = key.strip_prefix(prefix)?.strip_prefix(":{")?;
    rest.split_once('}').map(|(namespace, _)| namespace)
}

/// Refuses names that would change the meaning of a key or of a channel pattern.
pub(super) fn check_name(name: &str) -> Result<(), QueueError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if name.is_empty() || name.len() > 253 || !name.chars().all(good) {
        return Err(QueueError::BadName(name.chars().take(300).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_namespace_share_its_hash_slot() {
        let keys = Keys::new("persona", "team-a").expect("good names");
        assert_eq!(keys.prefix(), "persona:{team-a}:");
        assert_eq!(keys.task("t1"), "persona:{team-a}:t:t1");
        assert_eq!(keys.bell("pool", "-"), "persona:{team-a}:bell:pool:-");
        assert_eq!(namespace_of("persona", &keys.epoch()), Some("team-a"));
        assert_eq!(namespace_of("other", &keys.epoch()), None);
    }

    #[test]
    fn the_lane_of_any_model_is_a_name() {
        for model in ["llama3.2:1b", "meta-llama/Llama-3.1-8B", "{odd}*", "ü"] {
            check_name(&crate::api::runtime::model_lane(model)).expect("a good name");
        }
    }

    #[test]
    fn names_that_would_break_out_of_their_key_are_refused() {
        for name in ["", "a:b", "a}b", "{a", "*", "a b", "a\n"] {
            assert!(Keys::new("persona", name).is_err(), "{name:?}");
        }
    }
}
