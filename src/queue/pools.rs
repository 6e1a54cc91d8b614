//! Which pools there are, for who only reads.

use super::{NamespaceQueue, QueueError};

impl NamespaceQueue {
    /// Names of the open pools.
    ///
    /// # Errors
    /// When Redis gives no answer.
    pub async fn pools(&self) -> Result<Vec<String>, QueueError> {
        let mut read = redis::cmd("SMEMBERS");
        read.arg(self.keys.pools());
        Ok(read.query_async(&mut self.queue.manager()).await?)
    }
}
