//! Who may do what in Redis: one ACL user a namespace, one for the gateway.
//!
//! Passwords are derived from one master key, so that nothing has to be stored or read back:
//! `hex(HMAC-SHA256(master, "queue-password\0<subject>\0<version>"))`. Users survive neither a
//! restart nor a failover of Redis, so the controller sets them again at each contact, and whenever it
//! finds one missing.

use std::collections::BTreeSet;

use hmac::{Hmac, KeyInit, Mac};
use redis::Value;
use sha2::{Digest, Sha256};

use super::keys::{Keys, gateway_patterns, namespaces};
use super::{Queue, QueueError};

/// What a tenant may call, on its own prefix only: the functions, waiting and listening, reading
/// its output; and what the functions call, because Redis checks that against the caller too. No
/// EVAL, SCAN, KEYS, FUNCTION, CONFIG, nothing administrative.
const COMMANDS: [&str; 41] = [
    "fcall",
    "blpop",
    "xrange",
    "subscribe",
    "unsubscribe",
    "psubscribe",
    "punsubscribe",
    "ping",
    "del",
    "exists",
    "expire",
    "get",
    "hdel",
    "hexists",
    "hget",
    "hincrby",
    "hmget",
    "hset",
    "info|memory",
    "llen",
    "persist",
    "pexpire",
    "publish",
    "rpush",
    "sadd",
    "scard",
    "smembers",
    "srem",
    "time",
    "xadd",
    "xlen",
    "zadd",
    "zcard",
    "zpopmin",
    "zrange",
    "zrem",
    "zscore",
    "hello",
    "auth",
    "quit",
    "reset",
];

/// Sent by the client library at each connection; Redis has it from 7.2 on, and an older one refuses
/// a rule that names it.
const SET_INFO: &str = "client|setinfo";

/// The key that all passwords derive from. Debug and Display never show it.
#[derive(Clone)]
pub struct MasterKey(Vec<u8>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

impl MasterKey {
    /// Takes the content of the key's file; surrounding white space does not count.
    pub fn new(content: impl AsRef<[u8]>) -> Self {
        Self(content.as_ref().trim_ascii().to_vec())
    }

    /// Password of a namespace's worker user. Raise `version` to rotate.
    pub fn namespace_password(&self, namespace: &str, version: u32) -> String {
        self.derive("queue-password", namespace, version)
    }

    /// Password of the gateway's user.
    pub fn gateway_password(&self, version: u32) -> String {
        self.derive("gateway-password", "", version)
    }

    /// Any other secret of a namespace, such as the token of direct calls (`purpose` `direct-call`).
    pub fn derive(&self, purpose: &str, namespace: &str, version: u32) -> String {
        // HMAC takes keys of any length: new_from_slice has no failing case for it.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!());
        mac.update(format!("{purpose}\0{namespace}\0{version}").as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }
}

/// User name of a namespace's workers.
pub fn namespace_user(prefix: &str, namespace: &str) -> String {
    format!("{prefix}.{namespace}")
}

/// The namespace that a user of this prefix is for; none for others, the gateway among them.
pub fn namespace_of_user<'a>(prefix: &str, user: &'a str) -> Option<&'a str> {
    let namespace = user.strip_prefix(prefix)?.strip_prefix('.')?;
    let is_one = !namespace.is_empty() && !namespace.contains('.');
    is_one.then_some(namespace)
}

/// User name of the gateway. No namespace can be called so: `.` is not allowed in their names.
pub fn gateway_user(prefix: &str) -> String {
    format!("{prefix}..gateway")
}

/// `#<sha256>` of a password, so that the password itself is not sent.
fn hashed(password: &str) -> String {
    format!("#{}", hex::encode(Sha256::digest(password)))
}

impl Queue {
    /// Sets the user of a namespace's workers, idempotently. More than one version is valid during
    /// a rotation.
    ///
    /// # Errors
    /// [`QueueError::Denied`] where this user may not change ACLs (some managed Redis).
    pub async fn ensure_namespace_user(
        &self,
        namespace: &str,
        master: &MasterKey,
        versions: &[u32],
    ) -> Result<(), QueueError> {
        let keys = Keys::new(self.prefix(), namespace)?;
        let passwords = versions
            .iter()
            .map(|version| master.namespace_password(namespace, *version));
        let mut rules: Vec<String> = passwords.map(|password| hashed(&password)).collect();
        rules.push(format!("~{}*", keys.prefix()));
        rules.push(format!("&{}*", keys.prefix()));
        self.set_user(&namespace_user(self.prefix(), namespace), rules)
            .await
    }

    /// Sets the gateway's user, idempotently.
    ///
    /// # Errors
    /// As [`Queue::ensure_namespace_user`].
    pub async fn ensure_gateway_user(
        &self,
        master: &MasterKey,
        versions: &[u32],
    ) -> Result<(), QueueError> {
        let prefix = self.prefix();
        let mut rules: Vec<String> = versions
            .iter()
            .map(|version| hashed(&master.gateway_password(*version)))
            .collect();
        rules.push(format!("~{prefix}:{{*}}:*"));
        rules.push(format!("%R~{}", namespaces(prefix)));
        rules.push(format!("&{prefix}:{{*}}:*"));
        rules.extend(gateway_patterns(prefix).map(|pattern| format!("&{pattern}")));
        self.set_user(&gateway_user(prefix), rules).await
    }

    /// Names of all users that Redis knows, also those that are not ours.
    ///
    /// # Errors
    /// As [`Queue::ensure_namespace_user`].
    pub async fn users(&self) -> Result<BTreeSet<String>, QueueError> {
        Ok(redis::cmd("ACL")
            .arg("USERS")
            .query_async(&mut self.manager())
            .await?)
    }

    /// Removes the user of a namespace that has gone, and closes its connections.
    ///
    /// # Errors
    /// As [`Queue::ensure_namespace_user`].
    pub async fn remove_namespace_user(&self, namespace: &str) -> Result<(), QueueError> {
        redis::cmd("ACL")
            .arg("DELUSER")
            .arg(namespace_user(self.prefix(), namespace))
            .exec_async(&mut self.manager())
            .await?;
        Ok(())
    }

    async fn set_user(&self, user: &str, rules: Vec<String>) -> Result<(), QueueError> {
        let mut cmd = redis::cmd("ACL");
        cmd.arg(&["SETUSER", user, "reset", "on", "-@all"])
            .arg(rules);
        for command in COMMANDS {
            cmd.arg(format!("+{command}"));
        }
        let known: Value = redis::cmd("COMMAND")
            .arg(&["INFO", SET_INFO])
            .query_async(&mut self.manager())
            .await?;
        if !matches!(&known, Value::Array(found) if found.contains(&Value::Nil)) {
            cmd.arg(format!("+{SET_INFO}"));
        }
        cmd.exec_async(&mut self.manager()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespaces_user_is_told_from_all_others() {
        let user = namespace_user("persona", "team-a");
        assert_eq!(namespace_of_user("persona", &user), Some("team-a"));
        let gateway = gateway_user("persona");
        let longer = namespace_user("persona.eu", "team-a");
        for other in ["default", "persona", "persona.", &gateway, &longer] {
            assert_eq!(namespace_of_user("persona", other), None, "{other}");
        }
    }
}
