use super::*;
use proptest::prelude::*;

#[test]
fn download_status_is_understood() {
    let status: DownloadStatus = "dlstatus:2:12.6863:Retrieving file 2 of 2 (1s: remaining)".parse().expect("a status");
    assert_eq!(status.of(1000), 126);
    for line in
        ["", "dlstatus:", "dlstatus:1", "dlstatus:1:x:y", "dlstatus:x:1.0:y", "dlstatus:1:NaN:y", "pmstatus:a:1.0:b"]
    {
        assert!(line.parse::<DownloadStatus>().is_err(), "{line:?}");
    }
    assert_eq!("dlstatus:1:250.0:x".parse::<DownloadStatus>().map(|status| status.of(10)), Ok(10));
    assert_eq!("dlstatus:1:-3:x".parse::<DownloadStatus>().map(|status| status.of(10)), Ok(0));
}

const SHOWN: &str = "\
Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool,
 kmod
Size: 1504

Package: other
Version: 2
";

#[test]
fn a_package_is_found_in_what_apt_shows() {
    let candidate = candidate_in(SHOWN, "linux-image-cloud-amd64").expect("it is there");
    assert_eq!(candidate.version, "6.1.192-2");
    assert_eq!(candidate.depends, ["linux-image-6.1.0-56-cloud-amd64", "initramfs-tools", "kmod"]);
    assert_eq!(candidate.size, 1504);
    assert_eq!(candidate_in(SHOWN, "linux-image"), None);
    let other = Candidate { name: "other".into(), version: "2".into(), depends: vec![], size: 0 };
    assert_eq!(candidate_in(SHOWN, "other"), Some(other));
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "(Package: x\n|Version: 1\n|Depends: [a-z|(,: ]*\n|Size: [0-9x]*\n|\n| .*\n){0,12}") {
        let _ = candidate_in(&text, "x");
        let _ = text.parse::<DownloadStatus>();
    }
}
