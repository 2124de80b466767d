//! What a person gets wrong is one clear error, and nothing half done.

use motu_e2e::{Code, Kernel, motu};
use std::fs;

/// Runs motu and expects status 125, nothing on stdout, and an error with all of these words.
#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    let ended = motu(args);
    assert_eq!(ended.status, 125, "{args:?}: {ended:?}");
    assert_eq!(ended.stdout, "", "{args:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{args:?}: no {word:?} in\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn sizes_and_counts_out_of_range() {
    refused(&["run", "--memory", "1M"], &["1M", "at least 16M"]);
    refused(&["run", "--memory", "1T"], &["1T", "this host", "it has"]);
    refused(&["run", "--memory", "512"], &["512M"]);
    refused(&["run", "--memory", "-1"], &["512M"]);
    refused(&["run", "--cpus", "0"], &["at least 1"]);
    refused(&["run", "--engine", "soft", "--cpus", "999"], &["soft", "at most"]);
    refused(&["run", "--engine", "soft,soft", "--switch-every", "10ms", "--cpus", "65"], &["soft,soft", "at most 64"]);
    refused(&["run", "--engine", "kvm,kvm,soft"], &["3 engines", "kvm,soft"]);
    refused(&["run", "--engine", "soft,soft", "--switch-every", "0"], &["at least 1ms"]);
    refused(&["run", "--engine", "soft,soft", "--switch-every", "10"], &["10ms or 10s"]);
    refused(&["run", "--engine", "soft", "--switch-every", "10ms"], &["two engines", "--engine kvm,soft"]);
    refused(&["run", "--engine", "soft,soft"], &["--switch-every 10ms"]);
    refused(&["run", "--timeout", "-1"], &["30s"]);
    refused(&["run", "--timeout", "0"], &["positive"]);
}

#[test]
fn names_that_nobody_knows() {
    refused(&["run", "--engine", "fast"], &["auto", "kvm", "soft"]);
    refused(&["run", "--engine", "kvm,translate=off"], &["kvm engine has no options", "auto and soft"]);
    refused(
        &["run", "--engine", "soft,speed=11"],
        &["speed=11", "translate=off|on|lockstep", "deny=", "flags=live|exact", "stress="],
    );
    refused(&["run", "--engine", "soft,translate=no"], &["\"no\"", "off, on and lockstep"]);
    refused(&["run", "--engine", "soft,deny=main"], &["\"main\"", "hexadecimal"]);
    refused(&["run", "--cpu", "i386"], &["i386", "v2-2026"]);
    refused(&["run", "--memroy", "1G"], &["--memory"]);
    refused(&["run", "no-such-image"], &["no-such-image", "motu image ls", "oci:no-such-image"]);
    refused(&["runn"], &["run"]);
    refused(&[], &["Usage"]);
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let kernel = Kernel::new(Code::new());
    let file = |name: &str, content: &[u8]| {
        let path = kernel.folder().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    refused(&["run", "--kernel", "/no/such/kernel"], &["/no/such/kernel", "No such file"]);
    refused(&["run", "--kernel", "/"], &["directory"]);
    refused(&["run", "--kernel", "/dev/zero"], &["device"]);
    refused(&["run", "--kernel", &file("notes.txt", b"a shopping list\n")], &["notes.txt", "no kernel"]);
    refused(&["run", "--kernel", &file("empty", b"")], &["empty"]);

    // The beginning of a bzImage: a setup header that speaks of more than there is.
    let mut truncated = vec![0; 2048];
    truncated[0x1f1] = 4;
    truncated[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    truncated[0x201] = 0x6a;
    truncated[0x202..0x206].copy_from_slice(b"HdrS");
    truncated[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    truncated[0x211] = 1;
    truncated[0x236] = 1;
    truncated[0x1f4..0x1f8].copy_from_slice(&0x10_0000u32.to_le_bytes());
    refused(&["run", "--kernel", &file("bzImage", &truncated)], &["bzImage", "truncated"]);
}

#[test]
fn an_initrd_larger_than_memory() {
    let kernel = Kernel::new(Code::new().power_off());
    let initrd = kernel.folder().join("initrd");
    fs::File::create(&initrd).unwrap().set_len(64 << 20).unwrap();
    let (kernel, initrd) = (kernel.path(), initrd.to_str().unwrap().to_owned());
    let kernel = kernel.to_str().unwrap();
    refused(&["run", "--kernel", kernel, "--initrd", &initrd, "--memory", "32M"], &["initrd", "64 MiB", "memory"]);
    refused(&["run", "--initrd", &initrd], &["--kernel"]);
}

#[test]
fn things_that_exclude_each_other() {
    let kernel = Kernel::new(Code::new().power_off());
    let kernel = kernel.path();
    let kernel = kernel.to_str().unwrap();
    refused(&["run", "tiny", "--kernel", kernel], &["cannot be used with"]);
    refused(&["run", "--kernel", kernel, "--", "ls"], &["command", "image"]);
    refused(&["run", "--kernel", kernel, "--tty"], &["cannot be used with"]);
    refused(&["run", "--kernel", kernel, "--console", "/no/such/folder/log"], &["/no/such/folder/log"]);
}

#[test]
fn a_command_line_that_linux_would_cut() {
    let kernel = Kernel::new(Code::new().power_off());
    let long = "x".repeat(3000);
    refused(&["run", "--kernel", kernel.path().to_str().unwrap(), "--append", &long], &["3000", "2047"]);
}

#[test]
fn a_cache_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let ended = motu_e2e::command(["run"]).env("MOTU_HOME", file.join("home")).output().unwrap();
    assert_eq!(ended.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("Not a directory"), "{ended:?}");
}

#[test]
fn help_and_version_are_no_errors() {
    let version = motu(["--version"]);
    assert_eq!((version.status, version.stdout.starts_with("motu ")), (0, true));
    let help = motu(["run", "--help"]);
    assert_eq!(help.status, 0);
    for word in ["--kernel", "booted again", "--timeout", "Exit status", "123", "restarted", "124", "125"] {
        assert!(help.stdout.contains(word), "no {word} in\n{}", help.stdout);
    }
}
