//! Ports and address ranges that several testbeds on one machine can use side by side.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

use anyhow::{Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::run_dir;

/// Below the kernel's ephemeral ports and the NodePort range, so that nothing takes a chosen port
/// between the choice and the bind, or while a component is down between kill and restart.
const PORTS: RangeInclusive<u16> = 20_000..=29_999;
const SLOTS: u8 = 32;

/// A port nobody else on this machine gets from a testbed, until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lease: File,
}

impl Port {
    /// Picks a port that is free on all addresses.
    pub fn free() -> Result<Self> {
        let leases = run_dir::shared_folder("ports")?;
        for _ in 0..1000 {
            let number = rand::random_range(PORTS);
            let lease = run_dir::lock_file(&leases.join(number.to_string()))?;
            if lease.try_lock().is_ok()
                && TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok()
            {
                return Ok(Self {
                    number,
                    _lease: lease,
                });
            }
        }
        bail!("found no free port in {}..={}", PORTS.start(), PORTS.end())
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

/// The address ranges of one cluster, all from 198.18.0.0/15 (RFC 2544, for tests: never routed).
/// Ranges of living testbeds do not overlap.
#[derive(Debug)]
pub struct Ranges {
    slot: u8,
    lease: File,
}

impl Ranges {
    pub fn lease() -> Result<Self> {
        let leases = run_dir::shared_folder("ranges")?;
        for slot in 0..SLOTS {
            let lease = run_dir::lock_file(&leases.join(slot.to_string()))?;
            if lease.try_lock().is_ok() {
                return Ok(Self { slot, lease });
            }
        }
        bail!(
            "{SLOTS} testbed clusters are running already; stop one (`cargo testbed status` lists those of the CLI)"
        )
    }

    /// 0..32; unique among living testbeds of this user, for names of bridges and such.
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// A share of the lease that programs inherit if they are started while it lives: the ranges are taken
    /// until they have ended, too. For one that cleans up after this process.
    pub fn share(&self) -> Result<File> {
        let share = self.lease.try_clone()?;
        fcntl(&share, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(share)
    }

    /// Pods: a /21. The first address is the bridge's.
    pub fn pods(&self) -> String {
        format!("{}/21", Ipv4Addr::new(198, 18, self.slot * 8, 0))
    }

    /// Where pods reach host processes: the bridge's address.
    pub fn bridge(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.slot * 8, 1)
    }

    /// Services: a /22.
    pub fn services(&self) -> String {
        format!("{}/22", Ipv4Addr::new(198, 19, self.slot * 4, 0))
    }

    /// The cluster IP of the `kubernetes` Service.
    pub fn first_service(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.slot * 4, 1)
    }

    /// Addresses of nodes, from 1; the API server advertises that of node 1.
    pub fn node(&self, number: u8) -> IpAddr {
        Ipv4Addr::new(198, 19, 128 + self.slot, number).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_clusters_have_ports_and_ranges_of_their_own() {
        let (a, b) = (Ranges::lease().unwrap(), Ranges::lease().unwrap());
        assert_ne!(a.services(), b.services());
        assert_ne!(a.node(1), b.node(1));
        let ports: Vec<Port> = (0..20).map(|_| Port::free().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
    }
    #[test]
    fn ranges_are_taken_until_who_shares_them_has_ended_too() {
        let ranges = Ranges::lease().unwrap();
        let slot = ranges.slot();
        let share = ranges.share().unwrap();
        let mut keeper = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        drop((share, ranges));
        let other = Ranges::lease().unwrap();
        let seen = other.slot();
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        assert_ne!(seen, slot);
    }
}
