//! Addresses for pods on one host: a node leases a /24 and puts it on `lo`, where Linux then takes
//! every address of it for its own, so that a pod gets one without any system call.
//!
//! Without root the blocks lie in 127.0.0.0/8, where that is so from the start. Kubernetes refuses
//! such addresses in EndpointSlices: pods can then be called directly, but not through a Service.

use std::net::{IpAddr, Ipv4Addr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Package};
use crate::progress;

/// 198.19.160.0 to 198.19.255.0; clusters and real nodes of the testbed use what lies below.
const BLOCKS: std::ops::RangeInclusive<u8> = 160..=255;
/// The kernel removes an address that its owner does not renew: nothing outlives a killed testbed.
const LIFETIME_SECONDS: u32 = 300;
/// How often [`Block::renew`] has to be called.
pub const RENEW_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

const IPROUTE: &[Package] = &[Package {
    name: "iproute2",
    file: "/usr/sbin/ip",
}];

/// A /24 that no other process node on this machine has. The first address is the node's.
#[derive(Debug)]
pub struct Block {
    number: u8,
    on_lo: bool,
    /// Bound to an abstract name: the lease ends with this process, however it ends.
    _lease: UnixListener,
}

impl Block {
    /// Leases a free block, and puts it on `lo` when root. Blocks; for a thread that may.
    ///
    /// # Errors
    /// All blocks are taken.
    pub fn lease() -> Result<Self> {
        let leased = BLOCKS
            .clone()
            .find_map(|number| Some((number, lease(number)?)));
        let count = BLOCKS.count();
        let (number, lease) =
            leased.with_context(|| format!("{count} process nodes run on this machine already"))?;
        let mut block = Self {
            number,
            on_lo: nix::unistd::geteuid().is_root(),
            _lease: lease,
        };
        if block.on_lo
            && let Err(error) = packages::ensure_blocking(IPROUTE).and_then(|()| block.renew())
        {
            // Root of a container, for one, need not be allowed to.
            progress::line(format_args!(
                "pods get loopback addresses, and Services cannot reach them: {error:#}"
            ));
            block.on_lo = false;
        }
        Ok(block)
    }

    /// Whether addresses may be used in EndpointSlices, and so through Services.
    pub fn serves_services(&self) -> bool {
        self.on_lo
    }

    pub fn node(&self) -> Ipv4Addr {
        self.address(1)
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        let [a, b] = if self.on_lo { [198, 19] } else { [127, 19] };
        Ipv4Addr::new(a, b, self.number, host)
    }

    /// Prolongs the life of the block's address on `lo`.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn renew(&self) -> Result<()> {
        if !self.on_lo {
            return Ok(());
        }
        let seconds = LIFETIME_SECONDS.to_string();
        ip(&[
            "address",
            "replace",
            &format!("{}/24", self.node()),
            "dev",
            "lo",
            "valid_lft",
            &seconds,
            "preferred_lft",
            &seconds,
        ])
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.on_lo {
            let address = format!("{}/24", self.node());
            // The kernel removes it in any case, some minutes later.
            if let Err(error) = ip(&["address", "delete", &address, "dev", "lo"]) {
                tracing::warn!("{error:#}");
            }
        }
    }
}

/// Keeps the block of an address free for as long as the answer is held; none if a node has it.
pub fn keep_free(address: IpAddr) -> Option<UnixListener> {
    match address {
        IpAddr::V4(address) => lease(address.octets()[2]),
        IpAddr::V6(_) => None,
    }
}

fn lease(number: u8) -> Option<UnixListener> {
    let name = format!("persona-testbed/process-node/198.19.{number}.0");
    let address = SocketAddr::from_abstract_name(name).ok()?;
    UnixListener::bind_addr(&address).ok()
}

fn ip(args: &[&str]) -> Result<()> {
    let Output { status, stderr, .. } = Command::new("ip")
        .args(args)
        .output()
        .context("cannot run ip")?;
    if !status.success() {
        let words = String::from_utf8_lossy(&stderr);
        bail!("ip {}: {}", args.join(" "), words.trim());
    }
    Ok(())
}

/// Which addresses of a block are taken. An address is used again as late as possible.
#[derive(Debug)]
pub struct Pool {
    taken: [bool; 256],
    next: u8,
}

/// Pods a block has addresses for.
pub const CAPACITY: u16 = 253;

impl Pool {
    pub fn new() -> Self {
        let mut taken = [false; 256];
        // Network, node, broadcast.
        (taken[0], taken[1], taken[255]) = (true, true, true);
        Self { taken, next: 2 }
    }

    /// `None` when all are taken.
    pub fn take(&mut self, block: &Block) -> Option<Ipv4Addr> {
        let candidates = (0..=255).map(|offset| self.next.wrapping_add(offset));
        let host = candidates
            .into_iter()
            .find(|&host| !self.taken[usize::from(host)])?;
        self.taken[usize::from(host)] = true;
        self.next = host.wrapping_add(1);
        Some(block.address(host))
    }

    pub fn release(&mut self, address: Ipv4Addr) {
        self.taken[usize::from(address.octets()[3])] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_nodes_have_blocks_of_their_own_whose_addresses_can_be_bound() {
        let (a, b) = (Block::lease().unwrap(), Block::lease().unwrap());
        assert_ne!(a.node(), b.node());
        let mut pool = Pool::new();
        for block in [&a, &b] {
            let address = pool.take(block).unwrap();
            std::net::TcpListener::bind((address, 0)).unwrap();
        }
    }

    #[test]
    fn address_is_used_again_only_when_all_others_were() {
        let block = Block::lease().unwrap();
        let mut pool = Pool::new();
        let first = pool.take(&block).unwrap();
        pool.release(first);
        let mut taken: Vec<Ipv4Addr> = (0..CAPACITY).map(|_| pool.take(&block).unwrap()).collect();
        assert_eq!(taken.last(), Some(&first));
        assert_eq!(pool.take(&block), None);
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), usize::from(CAPACITY));
        assert!(!taken.contains(&block.node()));
    }
}
