use super::*;
use proptest::prelude::*;

fn config(text: &str) -> ImageConfig {
    let file = Motufile::parse(&format!("FROM x\n{text}")).unwrap();
    let mut config = ImageConfig::default();
    for step in &file.steps {
        if let Instruction::Config(change) = &step.what {
            change.apply(&mut config);
        }
    }
    config
}

fn error(text: &str) -> String {
    Motufile::parse(text).unwrap_err().to_string()
}

#[test]
fn a_file_is_understood() {
    let text = "# a comment\nFROM deb:stable\npackages curl \\\n  # inside\n  git\n\nCOPY a 'b c' /srv/\nRUN make \\\n && make install\nRUN [\"ls\", \"-l\"]\n";
    let file = Motufile::parse(text).unwrap();
    assert_eq!((file.from.as_str(), file.packages.join(" ").as_str()), ("deb:stable", "curl git"));
    let steps: Vec<_> = file.steps.iter().map(|step| (step.line, step.what.clone())).collect();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        steps,
        [
            (7, Instruction::Copy { sources: words(&["a", "b c"]), target: "/srv/".to_owned() }),
            (8, Instruction::Run(words(&["/bin/sh", "-c", "make && make install"]))),
            (10, Instruction::Run(words(&["ls", "-l"]))),
        ]
    );
}

#[test]
fn defaults_add_up_as_dockers() {
    let made = config(
        "ENV A=1 B=\"two words\"\nENV A=\"$A:${B}/\\$x\" C='$A'\nENV PATH=$PATH:/opt\nWORKDIR /srv\nWORKDIR app\nUSER app",
    );
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt";
    assert_eq!(made.env, ["B=two words", "A=1:two words/$x", "C=$A", path]);
    assert_eq!((made.workdir.as_deref(), made.user.as_deref()), (Some("/srv/app"), Some("app")));
    // A value is what it is, also with blanks, quotes and backslashes in it.
    let made =
        config("ENV A='x \"y\" \\z'\nENV B=$A C=\"it's $A\" D=\"\\d\\\"\" E=$none:$ F=\"\"\nWORKDIR /a$none/\"$A\"");
    let expected = ["A=x \"y\" \\z", "B=x \"y\" \\z", "C=it's x \"y\" \\z", "D=\\d\"", "E=:$", "F="];
    assert_eq!(
        (made.env.as_slice(), made.workdir.as_deref()),
        (&expected.map(str::to_owned)[..], Some("/a/x \"y\" \\z"))
    );
    assert_eq!(config("ENV P='80 53/udp'\nEXPOSE $P $none").exposed_ports, ["80/tcp", "53/udp"]);
    let made = config("CMD old\nENTRYPOINT [\"/start\"]\nEXPOSE 80 53/udp 80/tcp\nLABEL a=1 a=2");
    assert_eq!((made.entrypoint, made.cmd), (vec!["/start".to_owned()], Vec::new()));
    assert_eq!((made.exposed_ports.join(" ").as_str(), made.labels["a"].as_str()), ("80/tcp 53/udp", "2"));
}

#[test]
fn what_cannot_be_understood_is_said_with_its_line() {
    for (text, line, words) in [
        ("", 1, "no FROM"),
        ("RUN ls", 1, "before FROM"),
        ("FROM a\nFROM b", 2, "second FROM"),
        ("FROM a b", 1, "one word and has 2"),
        ("FROM a\n\nRNU ls", 3, "is RUN meant?"),
        ("FROM a\nBUILD it", 2, "there are FROM, PACKAGES"),
        ("FROM a\nADD x y", 2, "write COPY"),
        ("FROM a\nRUN", 2, "RUN make"),
        ("FROM a\nRUN ls\nPACKAGES x", 3, "right behind FROM"),
        ("FROM a\nCOPY x", 2, "one path"),
        ("FROM a\nCOPY --chown=a x y", 2, "RUN chown"),
        ("FROM a\nENV A", 2, "ENV NAME=value"),
        ("FROM a\nENV A='x", 2, "not closed"),
        ("FROM a\nENV A=${x", 2, "not closed"),
        ("FROM a\nENV A=${x:-y}", 2, "no name"),
        ("FROM a\nENV A=${}", 2, "no name"),
        ("FROM a\nCOPY $x", 2, "one path"),
        ("FROM a\nCMD [ls]", 2, "double quotes"),
        ("FROM a\nCMD []", 2, "empty list"),
        ("FROM a\nEXPOSE 0", 2, "53/udp"),
        ("FROM a\nRUN <<EOF\nls\nEOF", 2, "here-documents"),
        ("FROM a\nWORKDIR a b", 2, "one word"),
    ] {
        let error = error(text);
        assert!(error.starts_with(&format!("line {line}: ")) && error.contains(words), "{text:?}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}", lines in prop::collection::vec("(FROM|RUN|COPY|ENV|CMD|USER)? ?[\\PC]{0,20}\\\\?", 0..8)) {
        let _ = Motufile::parse(&text);
        let _ = Motufile::parse(&format!("FROM a\n{}", lines.join("\n")));
    }
}
