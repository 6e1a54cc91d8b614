//! The functions, and what is checked before the queue is used.

use redis::Value;

use super::reply::wrong;
use super::{Queue, QueueError, keys};

/// Name of the library. Raised when arguments, answers or meaning of a function change, so that old
/// and new processes of a rolling upgrade each find their own.
pub const LIBRARY: &str = "persona_v1";

/// Shared by all verbs, in this order.
const SHARED: [&str; 4] = [
    include_str!("lua/prelude.lua"),
    include_str!("lua/index.lua"),
    include_str!("lua/attempt.lua"),
    include_str!("lua/worker.lua"),
];

/// One file a verb.
const VERBS: [&str; 21] = [
    include_str!("lua/assign.lua"),
    include_str!("lua/cancel.lua"),
    include_str!("lua/claim.lua"),
    include_str!("lua/close.lua"),
    include_str!("lua/deregister.lua"),
    include_str!("lua/drain.lua"),
    include_str!("lua/emit.lua"),
    include_str!("lua/enqueue.lua"),
    include_str!("lua/finish.lua"),
    include_str!("lua/open.lua"),
    include_str!("lua/reap.lua"),
    include_str!("lua/reap_worker.lua"),
    include_str!("lua/recycle.lua"),
    include_str!("lua/register.lua"),
    include_str!("lua/registration.lua"),
    include_str!("lua/release.lua"),
    include_str!("lua/remove.lua"),
    include_str!("lua/renew.lua"),
    include_str!("lua/route.lua"),
    include_str!("lua/stats.lua"),
    include_str!("lua/take.lua"),
];

/// The library as `FUNCTION LOAD` takes it. Each verb is a block of its own.
pub fn source() -> String {
    let mut source = format!("#!lua name={LIBRARY}\nlocal LIBRARY = '{LIBRARY}'\n");
    for shared in SHARED {
        source.push_str(shared);
        source.push('\n');
    }
    for verb in VERBS {
        source.push_str("do\n");
        source.push_str(verb);
        source.push_str("end\n");
    }
    source
}

/// The words of all findings that do not keep the queue from being used.
pub const RISKS: [&str; 2] = ["Eviction", "NoAppendOnlyFile"];

/// The word of the finding that the server is no master.
const REPLICA: &str = "Replica";

/// Something about Redis that puts tasks at risk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A word for conditions and metrics.
    pub reason: &'static str,
    /// A sentence with the mend.
    pub message: String,
    /// The queue cannot be used like this.
    pub fatal: bool,
}

/// What [`Queue::install`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// What is wrong or risky.
    pub findings: Vec<Finding>,
    /// Identity of the server's data: changes with a restart or a failover, after which leases
    /// are not reaped for one full lease.
    pub run_id: String,
}

impl Queue {
    /// Checks version, eviction policy and persistence, claims the prefix for the cluster (uid of
    /// kube-system) and loads the functions. Idempotent; called at each new contact. With a fatal
    /// finding nothing is loaded.
    ///
    /// # Errors
    /// [`QueueError::ForeignInstallation`] when the prefix is another cluster's.
    pub async fn install(&self, cluster_id: &str) -> Result<Installed, QueueError> {
        let info: String = redis::cmd("INFO").query_async(&mut self.manager()).await?;
        let installed = Installed {
            findings: findings(&info),
            run_id: format!(
                "{}/{}",
                field(&info, "run_id"),
                field(&info, "master_replid")
            ),
        };
        if installed.findings.iter().any(|finding| finding.fatal) {
            if installed.findings.iter().any(|f| f.reason == REPLICA) {
                // Its address may lead to the new master by now.
                self.manager().found_a_replica();
            }
            return Ok(installed);
        }
        self.claim_prefix(cluster_id).await?;
        self.load().await?;
        Ok(installed)
    }

    async fn claim_prefix(&self, cluster_id: &str) -> Result<(), QueueError> {
        let key = keys::installation(self.prefix());
        let (_, owner): (Value, String) = redis::pipe()
            .cmd("SET")
            .arg(&[key.as_str(), cluster_id, "NX"])
            .cmd("GET")
            .arg(&key)
            .query_async(&mut self.manager())
            .await?;
        if owner == cluster_id {
            return Ok(());
        }
        Err(QueueError::ForeignInstallation {
            prefix: self.prefix().to_owned(),
            owner,
        })
    }

    /// Loads the library if the server has none of this name, or another text of it.
    async fn load(&self) -> Result<(), QueueError> {
        let source = source();
        let present: Value = redis::cmd("FUNCTION")
            .arg(&["LIST", "LIBRARYNAME", LIBRARY, "WITHCODE"])
            .query_async(&mut self.manager())
            .await?;
        if contains_text(&present, &source) {
            return Ok(());
        }
        let name: String = redis::cmd("FUNCTION")
            .arg(&["LOAD", "REPLACE", source.as_str()])
            .query_async(&mut self.manager())
            .await?;
        if name == LIBRARY {
            Ok(())
        } else {
            Err(wrong("install", format!("loaded `{name}`")))
        }
    }

    /// Namespaces that have personas registered.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn namespaces(&self) -> Result<Vec<String>, QueueError> {
        Ok(redis::cmd("SMEMBERS")
            .arg(keys::namespaces(self.prefix()))
            .query_async(&mut self.manager())
            .await?)
    }
}

fn contains_text(value: &Value, text: &str) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == text.as_bytes(),
        Value::Array(items) | Value::Set(items) => {
            items.iter().any(|item| contains_text(item, text))
        }
        Value::Map(pairs) => pairs.iter().any(|(_, item)| contains_text(item, text)),
        _ => false,
    }
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
}

/// Judges `INFO` of a server.
fn findings(info: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let version = field(info, "redis_version");
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or(0);
    if major < 7 {
        findings.push(Finding {
            reason: "RedisTooOld",
            message: format!("Redis {version} has no functions: use Redis 7.0 or newer, or Valkey"),
            fatal: true,
        });
    }
    if field(info, "cluster_enabled") == "1" {
        findings.push(Finding {
            reason: "ClusterMode",
            message:
                "Redis runs in cluster mode, which is not supported: use one master with replicas"
                    .into(),
            fatal: true,
        });
    }
    if field(info, "role") == "slave" {
        findings.push(Finding {
            reason: REPLICA,
            message: "this Redis is a replica: point the queue's URL at the master".into(),
            fatal: true,
        });
    }
    let policy = field(info, "maxmemory_policy");
    if policy != "noeviction" {
        findings.push(Finding {
            reason: "Eviction",
            message: format!(
                "maxmemory-policy is `{policy}`: set it to noeviction, or tasks disappear when memory is short"
            ),
            fatal: false,
        });
    }
    if field(info, "aof_enabled") == "0" {
        findings.push(Finding {
            reason: "NoAppendOnlyFile",
            message: "appendonly is off: a restart of Redis loses tasks; set appendonly yes".into(),
            fatal: false,
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_server_has_no_findings() {
        let info = "redis_version:7.2.4\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        assert_eq!(findings(info), []);
    }

    #[test]
    fn an_old_server_is_refused_and_a_forgetful_one_is_named() {
        let info = "redis_version:6.2.1\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n";
        let reasons: Vec<_> = findings(info)
            .into_iter()
            .map(|finding| (finding.reason, finding.fatal))
            .collect();
        assert_eq!(
            reasons,
            [
                ("RedisTooOld", true),
                ("Eviction", false),
                ("NoAppendOnlyFile", false)
            ]
        );
    }

    #[test]
    fn every_file_of_a_verb_is_in_the_library() {
        let source = source();
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/queue/lua"))
            .expect("folder of the functions")
        {
            let path = entry.expect("entry").path();
            let text = std::fs::read_to_string(&path).expect("file");
            assert!(source.contains(&text), "{} is left out", path.display());
        }
    }
}
