//! `--gdb`: by a client of the tests' own, and by gdb itself where it is installed.

use motu_e2e::gdb::{Gdb, RIP, address};
use motu_e2e::{Code, Kernel, command, motu};
use std::collections::HashMap;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// Where the kernel of `tiny` has these, without KASLR.
fn symbols(names: &[&str]) -> HashMap<String, u64> {
    let pattern = format!(" ({})$", names.join("|"));
    let ended = motu(["run", "--append", "nokaslr", "--", "grep", "-E", &pattern, "/proc/kallsyms"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let symbol = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        Some((words.nth(1)?.to_owned(), address))
    };
    let found: HashMap<_, _> = ended.stdout.lines().filter_map(symbol).collect();
    names.iter().for_each(|name| assert!(found.contains_key(*name), "{name} is a symbol"));
    found
}

/// `tiny`, which waits for gdb and then says hello.
fn waiting(cpus: &str) -> Child {
    let options = ["run", "--engine", "soft", "--cpus", cpus, "--append", "nokaslr", "--gdb", ":0,wait"];
    command([&options[..], &["--", "echo", "hello"]].concat()).spawn().unwrap()
}

fn says_hello(mut motu: Child, mut said: impl Read) {
    let mut stdout = String::new();
    motu.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let mut stderr = String::new();
    said.read_to_string(&mut stderr).unwrap();
    let status = motu.wait().unwrap();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(0), "hello\n", ""));
}

#[test]
fn a_booting_kernel_is_debugged_from_its_first_instruction_to_its_end() {
    let symbols = symbols(&["start_kernel", "rest_init", "jiffies", "linux_banner"]);
    let mut motu = waiting("1");
    let (address, said) = address(&mut motu);
    let mut gdb = Gdb::attach(&address);
    assert!(gdb.register(RIP) < 1 << 32, "the kernel's entry, before paging is its own");

    gdb.run_to(symbols["start_kernel"]);
    let banner: String = "Linux version ".bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(gdb.ask(&format!("m{:x},e", symbols["linux_banner"])), banner);
    for _ in 0..10 {
        let before = gdb.register(RIP);
        assert!(gdb.ask("vCont;s:1").starts_with("T05"));
        assert_ne!(gdb.register(RIP), before);
    }
    gdb.run_to(symbols["rest_init"]);

    let jiffies = symbols["jiffies"];
    assert_eq!(gdb.ask(&format!("Z2,{jiffies:x},8")), "OK");
    let mut last = String::new();
    for _ in 0..3 {
        let stop = gdb.ask("vCont;c");
        assert!(stop.contains(&format!("watch:{jiffies:x}")), "{stop}");
        let now = gdb.ask(&format!("m{jiffies:x},8"));
        assert_ne!(now, last, "it has counted on");
        last = now;
    }
    assert_eq!(gdb.ask(&format!("z2,{jiffies:x},8")), "OK");
    assert_eq!(gdb.ask("vCont;c"), "W00");
    says_hello(motu, said);
}

#[test]
fn each_cpu_is_a_thread() {
    let symbols = symbols(&["start_secondary"]);
    let mut motu = waiting("2");
    let (address, said) = address(&mut motu);
    let mut gdb = Gdb::attach(&address);
    assert!(gdb.ask("qSupported:multiprocess+;swbreak+;hwbreak+").contains("swbreak+"));
    let [first, second] = ["p01.01", "p01.02"];
    assert_eq!(gdb.ask("qfThreadInfo"), format!("m{first},{second}"));
    gdb.run_to(symbols["start_secondary"]);
    // The other one stands still while this one steps.
    let there = |gdb: &mut Gdb, thread| {
        assert_eq!(gdb.ask(&format!("Hg{thread}")), "OK");
        gdb.register(RIP)
    };
    let before = [first, second].map(|thread| there(&mut gdb, thread));
    assert!(gdb.ask(&format!("vCont;s:{second}")).contains(second));
    let after = [first, second].map(|thread| there(&mut gdb, thread));
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    assert_eq!(gdb.ask("vCont;c"), "W00");
    says_hello(motu, said);
}

#[test]
fn gdb_itself_attaches_to_a_booting_kernel() {
    let has_gdb = Command::new("gdb").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !has_gdb {
        println!("SKIPPED: gdb is not installed (apt-get install gdb)");
        return;
    }
    let symbols = symbols(&["start_kernel", "jiffies"]);
    let mut motu = waiting("1");
    let (address, said) = address(&mut motu);
    let script = [
        format!("target remote {address}"),
        format!("hbreak *{:#x}", symbols["start_kernel"]),
        "continue".into(),
        "info threads".into(),
        "print/x $cr0 & 0x80000001".into(),
        "stepi".into(),
        "delete".into(),
        format!("watch *(unsigned long *){:#x}", symbols["jiffies"]),
        "continue".into(),
        "monitor info cpus".into(),
        "delete".into(),
        "detach".into(),
    ];
    let lines = script.iter().flat_map(|line| ["-ex", line.as_str()]);
    let output = Command::new("gdb").args(["-nx", "-batch"]).args(lines).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    // What the target says, gdb says on its stderr.
    let text = out + &err;
    let expected = [
        "Breakpoint 1, ",
        "CPU#0 [running]",
        "$1 = 0x80000001",
        "Old value = ",
        "New value = ",
        "CPU#0 running at",
        "detached",
    ];
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    says_hello(motu, said);
}

/// A kernel that prints a line, and then nothing for ever.
fn endless(more: &[&str]) -> (Kernel, Child) {
    let kernel = Kernel::new(Code::new().print("up\n").spin());
    let path = kernel.path();
    let line = ["run", "--engine", "soft", "--memory", "16M", "--timeout", "2m", "--kernel", path.to_str().unwrap()];
    let child = command([&line, more].concat()).spawn().unwrap();
    (kernel, child)
}

#[test]
fn it_is_interrupted_left_attached_to_again_and_killed() {
    let (_kernel, mut motu) = endless(&["--gdb", ":0"]);
    let (address, _said) = address(&mut motu);
    for _ in 0..3 {
        let mut gdb = Gdb::attach(&address);
        gdb.send("vCont;c");
        gdb.send_raw(&[3]);
        assert!(gdb.receive().unwrap().starts_with("T02"));
        assert_eq!(Gdb::attach(&address).receive(), None, "a second one is turned away");
        assert_eq!(gdb.ask("D"), "OK");
        assert_eq!(gdb.receive(), None);
    }
    let mut gdb = Gdb::attach(&address);
    gdb.ask("?");
    assert_eq!(gdb.ask("vKill;1"), "OK");
    assert_eq!(motu.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_no_packet_does_no_harm() {
    let (_kernel, mut motu) = endless(&["--gdb", ":0"]);
    let (address, _said) = address(&mut motu);
    let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", b"$m0,ffffffffffffffff#zz$", &[0xff; 100_000], b"-"];
    for bytes in garbage {
        let mut client = Gdb::attach(&address);
        client.send_raw(bytes);
    }
    let mut gdb = loop {
        // Until the last one has been left.
        let mut gdb = Gdb::attach(&address);
        gdb.send("?");
        if gdb.receive().is_some() {
            break gdb;
        }
    };
    assert!(gdb.ask("g").len() > 1000);
    gdb.send("k");
    assert_eq!(motu.wait().unwrap().code(), Some(0));
}

#[test]
fn a_socket_is_this_users_and_goes_with_the_machine() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gdb");
    let (_kernel, mut motu) = endless(&["--gdb", &format!("unix:{}", path.display())]);
    let (address, _said) = address(&mut motu);
    assert_eq!(address, path.display().to_string());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (_other, second) = endless(&["--gdb", &address]);
    let second = second.wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&motu), rustix::process::Signal::TERM).unwrap();
    assert_eq!(motu.wait().unwrap().code(), Some(128 + 15));
    assert!(!path.exists());
}

#[test]
fn an_address_that_cannot_be_used_is_one_clear_error() {
    let kernel = Kernel::new(Code::new().power_off());
    let path = kernel.path();
    let run = |address: &str| motu(["run", "--kernel", path.to_str().unwrap(), "--gdb", address]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases = [
        (taken.as_str(), "in use"),
        ("192.0.2.1:1234", "192.0.2.1:1234"),
        ("localhost", "127.0.0.1:1234"),
        (":99999", "65535"),
        (":1234,now", "only wait"),
        ("/nowhere/gdb", "/nowhere/gdb"),
        ("/etc/passwd", "is no socket"),
    ];
    for (address, says) in cases {
        let ended = run(address);
        assert_eq!((ended.status, ended.stdout.as_str()), (125, ""), "{address}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{address}: {}", ended.stderr);
    }
    let exposed = run("0.0.0.0:0");
    assert_eq!(exposed.status, 0);
    assert!(exposed.stderr.contains("owns the guest"), "{}", exposed.stderr);
}
