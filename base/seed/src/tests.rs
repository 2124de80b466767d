use super::*;
use proptest::prelude::*;

/// A key of no use: 32 bytes of zeros.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me@host";

fn says(part: Part, text: &str) -> String {
    part.check(text).map_or_else(|error| error.to_string(), |()| String::new())
}

#[test]
fn user_data_are_what_cloud_init_knows() {
    for text in [
        "#cloud-config\n",
        "#cloud-config\nhostname: web\nruncmd:\n- [touch, /a]\n- echo 'a: b'\n",
        "\n  #Cloud-Config\n{\"hostname\": \"web\"}\n",
        "#cloud-config\n---\na: &x {b: 1}\nc: *x\n<<: *x\n",
        "#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    a: b\n",
        "#!/bin/sh\n: {\n",
        "#include\nhttps://example.org/a\n",
        "#include-once\n",
        "#cloud-boothook\n#!/bin/sh\n",
        "#part-handler\n",
        "## template: jinja\n#cloud-config\n{% if x %}\n",
        "Content-Type: multipart/mixed; boundary=\"=\"\nMIME-Version: 1.0\n\n--=\n",
    ] {
        assert_eq!(says(Part::UserData, text), "", "{text}");
    }
    for (text, word) in [
        ("", "it is empty"),
        (" \n\t", "it is empty"),
        ("hostname: web\n", "\"hostname: web\""),
        ("# cloud-config\n", "the line #cloud-config"),
        ("#cloud-config\na: b: c\n", "line 2, column 5"),
        ("#cloud-config\na:\n\t- b\n", "line 3"),
        ("#cloud-config\na: *x\n", "line 2, column 4"),
        ("#cloud-config\n- a\n", "hostname: web"),
        ("#cloud-config\nhello\n", "hostname: web"),
        ("#cloud-config\na: b\n---\nc: d\n", "several YAML documents"),
        ("#cloud-config-archive\na: b\n", "dash"),
        ("#!/bin/sh\n\0", "zero byte"),
    ] {
        let error = says(Part::UserData, text);
        assert!(error.contains(word), "{text:?}: {error}");
    }
    let long = format!("#!/bin/sh\n{}", "#".repeat(Part::UserData.limit()));
    assert_eq!(says(Part::UserData, &long), "it has more than 256 KiB, which is the most");
    // What is shown of it is no long line.
    assert!(says(Part::UserData, &"x".repeat(9000)).len() < 400);
}

#[test]
fn meta_data_and_the_network_have_their_keys() {
    assert_eq!(says(Part::MetaData, "instance-id: a\nlocal-hostname: b\n"), "");
    assert_eq!(says(Part::MetaData, "{\"x\": {\"instance-id\": 1}, \"instance-id\": \"a\"}"), "");
    for text in ["# nothing\n", "a: instance-id\n", "a: {instance-id: b}\n", "? [instance-id]\n: a\n"] {
        assert!(says(Part::MetaData, text).contains("instance-id: web-1"), "{text}");
    }
    assert!(says(Part::MetaData, "- instance-id\n").contains("no mapping"));
    assert_eq!(says(Part::NetworkConfig, "version: 2\nethernets: {}\n"), "");
    assert_eq!(says(Part::NetworkConfig, "network:\n  version: 1\n"), "");
    assert!(says(Part::NetworkConfig, "ethernets: {}\n").contains("version: 2"));
}

#[test]
fn bytes_are_text() {
    assert_eq!(Part::UserData.text(b"#!\xff".to_vec()), Err(PartError::NotText));
    assert_eq!(Part::UserData.text(vec![0x1f, 0x8b, 8]), Err(PartError::Compressed));
    assert_eq!(Part::MetaData.text(vec![b' '; 65537]), Err(PartError::TooLong(65536)));
    assert_eq!(Part::MetaData.text(b"a: b".to_vec()).as_deref(), Ok("a: b"));
}

#[test]
fn keys_are_public_and_openssh_s() {
    let options = format!("command=\"echo \\\"a b\\\"\",no-pty {KEY}");
    let file = format!("# mine\n\n{KEY}\r\n  {options}\n");
    assert_eq!(parse_keys(&file), Ok(vec![KEY.to_owned(), options]));
    let words: Vec<&str> = KEY.split(' ').collect();
    for (text, expected) in [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n".to_owned(), PartError::PrivateKey),
        ("-----BEGIN RSA PRIVATE KEY-----\n".to_owned(), PartError::PrivateKey),
        ("PuTTY-User-Key-File-3: ssh-ed25519\n".to_owned(), PartError::PrivateKey),
        ("# none\n".to_owned(), PartError::NoKey),
        (format!("{KEY}\nssh-rsa {}\n", words[1]), PartError::Key(2)),
        (words[0].to_owned(), PartError::Key(1)),
        (format!("{} {}", words[0], &words[1][..20]), PartError::Key(1)),
        (format!("{} AAAA", words[0]), PartError::Key(1)),
        (format!("{} {}=", words[0], words[1]), PartError::Key(1)),
        ("---- BEGIN SSH2 PUBLIC KEY ----\n".to_owned(), PartError::Key(1)),
        ("#cloud-config\nhostname: web\n".to_owned(), PartError::Key(2)),
    ] {
        assert_eq!(parse_keys(&text), Err(expected), "{text}");
    }
}

#[test]
fn a_spec_is_checked_whole() {
    let good = SeedSpec { user_data: Some("#!/bin/sh\n".into()), ssh_keys: vec![KEY.into()], ..SeedSpec::default() };
    assert_eq!(good.check(), Ok(()));
    let words = |spec: SeedSpec| spec.check().unwrap_err().to_string();
    let two = SeedSpec { meta_data: Some("instance-id: a\n".into()), ..good.clone() };
    assert!(words(two).contains("public-keys"));
    let lines = SeedSpec { ssh_keys: vec![KEY.into(), format!("{KEY}\nx")], ..SeedSpec::default() };
    assert!(words(lines).contains("SSH key for cloud-init cannot be used: line 2"));
    let many = SeedSpec { ssh_keys: vec![KEY.into(); 1000], ..SeedSpec::default() };
    assert!(words(many).contains("64 KiB"));
    let data = SeedSpec { user_data: Some("a: b".into()), ..SeedSpec::default() };
    assert!(words(data).contains("the user-data for cloud-init cannot be used: it begins with \"a: b\""));
    assert!(SeedSpec::default().is_empty() && !good.is_empty());
    let json = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<SeedSpec>(&json).unwrap(), good);
}

/// A reader of its own: the label, and the files by the names that Rock Ridge gives them, with their modes.
fn read(image: &[u8]) -> (String, Vec<(String, u32, Vec<u8>)>) {
    let number = |bytes: &[u8], at: usize| {
        let little = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(little, u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap()), "both orders agree");
        little as usize
    };
    let primary = &image[16 * 2048..17 * 2048];
    assert_eq!(&primary[..7], b"\x01CD001\x01");
    assert_eq!(number(primary, 80) * 2048, image.len());
    assert_eq!(&image[17 * 2048..17 * 2048 + 7], b"\xffCD001\x01");
    let root = &primary[156..190];
    let (at, len) = (number(root, 2) * 2048, number(root, 10));
    let folder = &image[at..at + len];
    let (mut at, mut files) = (0, Vec::new());
    while folder[at] != 0 {
        let record = &folder[at..at + usize::from(folder[at])];
        assert_eq!(record.len() % 2, 0);
        let data = &image[number(record, 2) * 2048..][..number(record, 10)];
        let name_end = 33 + usize::from(record[32]);
        let mut entries = &record[name_end.next_multiple_of(2)..];
        let (mut name, mut mode) = (String::new(), 0);
        while let [a, b, len, 1, ..] = entries {
            let entry = &entries[..usize::from(*len)];
            match [*a, *b] {
                [b'N', b'M'] => name = String::from_utf8(entry[5..].to_vec()).unwrap(),
                [b'P', b'X'] => mode = number(entry, 4),
                _ => {}
            }
            entries = &entries[entry.len()..];
        }
        if !name.is_empty() {
            assert!(record[33..name_end].ends_with(b".;1"));
            files.push((name, mode as u32, data.to_vec()));
        }
        at += record.len();
    }
    let label = String::from_utf8(primary[40..72].to_vec()).unwrap();
    (label.trim_end().to_owned(), files)
}

#[test]
fn an_image_has_the_files_that_cloud_init_looks_for() {
    let user_data = format!("#!/bin/sh\n{}", "x".repeat(5000));
    let spec = SeedSpec {
        user_data: Some(user_data.clone()),
        network_config: Some("version: 2\n".into()),
        ssh_keys: vec![format!("command=\"a\" {KEY}")],
        ..SeedSpec::default()
    };
    let image = spec.image(Some(Identity { id: "0123456789ab", name: "web" }));
    let (label, files) = read(&image);
    assert_eq!(label, "cidata");
    let names: Vec<_> = files.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
    assert_eq!(names, [("meta-data", 0o100_400), ("network-config", 0o100_400), ("user-data", 0o100_400)]);
    assert_eq!(files[1].2, b"version: 2\n");
    assert_eq!(files[2].2, user_data.as_bytes());
    let meta: serde_json::Value = serde_json::from_slice(&files[0].2).unwrap();
    let expected = serde_json::json!({
        "instance-id": "motu-0123456789ab", "local-hostname": "web", "public-keys": spec.ssh_keys,
    });
    assert_eq!(meta, expected);
    assert_eq!(Part::MetaData.check(std::str::from_utf8(&files[0].2).unwrap()), Ok(()));
}

#[test]
fn a_machine_without_a_name_is_the_same_as_long_as_it_is_given_the_same() {
    let meta = |spec: &SeedSpec| read(&spec.image(None)).1[0].2.clone();
    let keys =
        |keys: &[&str]| SeedSpec { ssh_keys: keys.iter().map(|&key| key.into()).collect(), ..SeedSpec::default() };
    let other = SeedSpec { user_data: Some("#!".into()), ..SeedSpec::default() };
    let empty = SeedSpec { user_data: Some(String::new()), ..SeedSpec::default() };
    let all = [keys(&[]), keys(&["a", "b"]), keys(&["ab"]), other, empty];
    for (n, one) in all.iter().enumerate() {
        assert_eq!(meta(one), meta(one));
        all[..n].iter().for_each(|before| assert_ne!(meta(one), meta(before)));
    }
    let given = SeedSpec { meta_data: Some("instance-id: mine\n".into()), ..SeedSpec::default() };
    let (_, files) = read(&given.image(None));
    assert_eq!(
        (files[0].2.as_slice(), files[1].2.as_slice()),
        (&b"instance-id: mine\n"[..], &b"#cloud-config\n{}\n"[..])
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,60}", yaml in "([-:?#&*!|>'\"%@`{}\\[\\],] ?|a|\n|  |\t|---\n|<<: ){0,40}") {
        for part in [Part::UserData, Part::MetaData, Part::NetworkConfig, Part::SshKeys] {
            let _ = part.check(&text);
            let _ = part.check(&format!("#cloud-config\n{yaml}"));
        }
    }

    #[test]
    fn any_files_are_read_back(data in proptest::collection::vec(any::<u8>(), 0..6000)) {
        let (_, files) = read(&iso9660::image("x", &[("a-1", &data), ("b", &[]), ("c", &data)]));
        let expected = [("a-1", data.clone()), ("b", Vec::new()), ("c", data)];
        prop_assert_eq!(files.len(), 3);
        for ((name, _, found), (expected_name, expected)) in files.into_iter().zip(expected) {
            prop_assert_eq!((name.as_str(), found), (expected_name, expected));
        }
    }
}
