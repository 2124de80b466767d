//! What the machine is doing, for `motu inspect` and `motu stats`: JSON on standard output.
//!
//! ```text
//! { "uptime": seconds, "load": [1, 5 and 15 minutes], "processes": n, "cpus": { "busy": seconds, "idle": seconds },
//!   "memory": { "total": bytes, "available": bytes, "free": bytes },
//!   "mounts": [{ "device", "path", "type", "size": bytes, "available": bytes }], "addresses": [{ "interface", "address" }] }
//! ```

use crate::mounts;
use std::ffi::CStr;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

/// File systems and addresses that are told at most: a guest may have any number.
const MOST: usize = 64;

/// Writes the report to standard output.
pub fn write() -> io::Result<()> {
    let text = format!(
        "{{{},{},\"mounts\":[{}],\"addresses\":[{}]}}\n",
        times(),
        memory(),
        room_on_mounts().join(","),
        addresses().join(",")
    );
    io::stdout().write_all(text.as_bytes())
}

fn proc(name: &str) -> String {
    fs::read_to_string(format!("/proc/{name}")).unwrap_or_default()
}

fn float(text: Option<&str>) -> f64 {
    text.and_then(|text| text.parse().ok()).filter(|number: &f64| number.is_finite()).unwrap_or(0.0)
}

/// Uptime, load averages and the CPUs' time (proc(5)).
fn times() -> String {
    let (uptime, load, stat) = (proc("uptime"), proc("loadavg"), proc("stat"));
    let mut uptime = uptime.split_whitespace();
    let load: Vec<&str> = load.split_whitespace().collect();
    let average = |n: usize| float(load.get(n).copied());
    let processes = load.get(3).and_then(|pair| pair.split_once('/')).map_or(0.0, |(_, all)| float(Some(all)));
    // user, nice, system, idle, iowait, irq, softirq, steal, in hundredths of a second.
    let ticks: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).map(|n| float(Some(n))).collect();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    let busy = ticks.iter().sum::<f64>() - idle;
    format!(
        "\"uptime\":{},\"load\":[{},{},{}],\"processes\":{processes},\"cpus\":{{\"busy\":{},\"idle\":{}}}",
        float(uptime.next()),
        average(0),
        average(1),
        average(2),
        busy / 100.0,
        idle / 100.0
    )
}

fn memory() -> String {
    let text = proc("meminfo");
    let kib = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
            .saturating_mul(1024)
    };
    format!(
        "\"memory\":{{\"total\":{},\"available\":{},\"free\":{}}}",
        kib("MemTotal"),
        kib("MemAvailable"),
        kib("MemFree")
    )
}

/// The file systems that have a size.
fn room_on_mounts() -> Vec<String> {
    let mut told = Vec::new();
    for mount in mounts::all() {
        let Ok(room) = rustix::fs::statvfs(&mount.path) else { continue };
        if room.f_blocks == 0 || told.len() >= MOST {
            continue;
        }
        told.push(format!(
            "{{\"device\":{},\"path\":{},\"type\":{},\"size\":{},\"available\":{}}}",
            json(mount.device.as_bytes()),
            json(mount.path.as_bytes()),
            json(mount.kind.as_bytes()),
            room.f_blocks.saturating_mul(room.f_frsize),
            room.f_bavail.saturating_mul(room.f_frsize)
        ));
    }
    told
}

/// A JSON string; what is no UTF-8 is replaced.
fn json(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The addresses of the machine's network interfaces but loopback (getifaddrs(3)).
fn addresses() -> Vec<String> {
    let mut told = Vec::new();
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs writes the list's head to the pointer that it is given.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return told;
    }
    let mut next = first;
    // SAFETY: the list's members live until freeifaddrs.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        if entry.ifa_addr.is_null() || entry.ifa_flags & libc::IFF_LOOPBACK as u32 != 0 || told.len() >= MOST {
            continue;
        }
        // SAFETY: an address is not null here, and the family says which structure it is.
        let address = unsafe {
            match i32::from((*entry.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let address = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                    Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).to_string()
                }
                libc::AF_INET6 => {
                    let address = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                    Ipv6Addr::from(address.sin6_addr.s6_addr).to_string()
                }
                _ => continue,
            }
        };
        // SAFETY: an interface's name is a string that ends with a zero byte.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        told.push(format!("{{\"interface\":{},\"address\":{}}}", json(name.to_bytes()), json(address.as_bytes())));
    }
    // SAFETY: the list is getifaddrs's and is used no more.
    unsafe { libc::freeifaddrs(first) };
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(json(b"a\"\\\n\xff"), "\"a\\\"\\\\\\u000a\u{fffd}\"");
    }
}
