//! Machines with several processors, on the software engine.

use motu_e2e::motu;

/// Every processor at once takes part in each: a pipe and processes, in pieces that end at a barrier, with results that are known.
const WORK: &str = r#"
    nproc
    grep -c ^processor /proc/cpuinfo
    n=0
    while [ $n -lt 3 ]; do
        for worker in 1 2 3 4 5 6 7 8; do
            (seq 1 3000 | sort -r | sort -n | sha256sum; seq $worker 2000 | awk '{ s += $1 } END { print s }') >/tmp/$worker &
        done
        wait
        n=$((n + 1))
    done
    sort -u /tmp/[1-8] | sha256sum
    dmesg | grep -ciE 'unstable|lockup|stall|call trace|BUG:'
"#;

/// The lines that the work printed on `cpus` processors.
fn work(cpus: &str) -> Vec<String> {
    let ended = motu(["run", "--engine", "soft", "--cpus", cpus, "--timeout", "120s", "--", "sh", "-c", WORK]);
    let lines: Vec<_> = ended.stdout.lines().map(str::to_owned).collect();
    // The last command is a GREP that finds nothing.
    assert_eq!((ended.status, lines.len()), (1, 4), "with {cpus} processors:\n{}{}", ended.stdout, ended.stderr);
    lines
}

#[test]
fn a_guest_has_as_many_processors_as_it_is_given_and_the_same_results() {
    let alone = work("1");
    assert_eq!(alone[..2], ["1", "1"]);
    for cpus in ["2", "4"] {
        let several = work(cpus);
        assert_eq!(several[..2], [cpus, cpus]);
        assert_eq!((&several[2], several[3].as_str()), (&alone[2], "0"), "with {cpus} processors");
    }
}

/// More of them than hosts have CPUs.
#[test]
fn sixteen_processors_come_up_and_end() {
    let ended =
        motu(["run", "--engine", "soft", "--cpus", "16", "--timeout", "120s", "--", "sh", "-c", "nproc; exit 5"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (5, "16\n"), "{}", ended.stderr);
}

#[test]
fn lockstep_is_for_one() {
    let ended = motu(["run", "--engine", "soft,translate=lockstep", "--cpus", "2", "--", "true"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (125, ""));
    assert!(ended.stderr.contains("lockstep") && ended.stderr.contains("at most 1"), "{}", ended.stderr);
}
