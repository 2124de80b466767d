//! From an image to what a machine boots, and to the command that it runs.

use super::{Prepared, has_agent};
use crate::vmm::{Boot, Disks, shares};
use anyhow::Result;
use motu_machine::OnReset;
use motu_proto::{Exec, PORT_NAME};
use motu_seed::Identity;
use motu_spec::{CommandSpec, VmSpec};
use motu_store::{ImageConfig, MachineFolder, Watch};

/// The machine's root disk as the agent in the guest finds it: the first one that the machine has.
const ROOT_DEVICE: &str = "/dev/vda";
/// What the guest finds as its serial number.
const ROOT_SERIAL: &str = "motu-root";

/// What the machine of an image boots. `shows` whether somebody watches the console; `host` what the machine calls itself.
///
/// # Errors
/// The machine's disk cannot be used.
pub fn boot(
    prepared: Prepared,
    folder: &MachineFolder,
    spec: &VmSpec,
    shows: bool,
    host: Option<&str>,
    mut disks: Disks,
) -> Result<Boot> {
    let image = &prepared.image;
    let has_agent = has_agent(&image.record.boot);
    let mut parameters = vec![prepared.boot.cmdline.clone()];
    if let Some(root) = &image.record.disk {
        disks.put_first(Box::new(folder.open_disk(&image.name, root, Watch::silent())?), ROOT_SERIAL);
        if image.record.boot == motu_store::Boot::Default {
            parameters.push(format!("motu.root={ROOT_DEVICE}"));
            parameters.extend(root.filesystem.as_ref().map(|kind| format!("motu.rootfstype={kind}")));
        }
    }
    disks.add_seed(spec.seed.as_ref(), host.map(|name| Identity { id: folder.id(), name }));
    // For the agent, which has its file system's module.
    parameters.extend(spec.seed.as_ref().filter(|_| has_agent).map(|_| "motu.seed".to_owned()));
    parameters.extend(shares::parameters(&spec.shares));
    parameters.extend(host.map(|host| format!("motu.hostname={host}")));
    // Messages are for a console that nobody watches; what is shown is shown from the start (printing costs time).
    parameters.extend(shows.then(|| "loglevel=7".to_owned()));
    parameters.extend(spec.cmdline.clone());
    Ok(Boot {
        kernel: prepared.boot.kernel,
        initrd: prepared.boot.initrd,
        cmdline: parameters.join(" "),
        flat: None,
        ports: if has_agent { vec![PORT_NAME.to_owned()] } else { Vec::new() },
        disks,
        on_reset: if has_agent { OnReset::End } else { OnReset::Restart },
    })
}

/// The command that is run: what was asked for, over what the image says; none if neither says anything.
pub fn command(config: &ImageConfig, asked: &CommandSpec) -> Option<Exec> {
    let entrypoint = match &asked.entrypoint {
        Some(program) => std::slice::from_ref(program).iter().filter(|program| !program.is_empty()).cloned().collect(),
        None => config.entrypoint.clone(),
    };
    let arguments = match &asked.argv {
        argv if !argv.is_empty() => argv.as_slice(),
        // The image's command may be its entry point's arguments only.
        _ if asked.entrypoint.is_some() => &[],
        _ => &config.cmd,
    };
    let argv: Vec<Vec<u8>> = entrypoint.into_iter().chain(arguments.to_vec()).map(String::into_bytes).collect();
    (!argv.is_empty()).then(|| Exec { argv, ..surroundings(config, asked) })
}

/// The command that is run with nobody at it; none, too, where it would be a shell without a terminal, which an image names for whoever
/// sits there: it would end at once, and the machine with it.
pub fn unattended_command(config: &ImageConfig, asked: &CommandSpec) -> Option<Exec> {
    const SHELLS: [&str; 4] = ["sh", "bash", "dash", "ash"];
    let is_the_images = asked.argv.is_empty() && asked.entrypoint.is_none() && config.entrypoint.is_empty();
    let waits_for_somebody = match config.cmd.as_slice() {
        [program] => is_the_images && !asked.tty && SHELLS.contains(&program.rsplit('/').next().unwrap_or_default()),
        _ => false,
    };
    if waits_for_somebody { None } else { command(config, asked) }
}

/// A shell, where nothing else is to be run.
pub fn shell(config: &ImageConfig, asked: &CommandSpec, tty: bool) -> Exec {
    let argv = if tty { vec![b"/bin/sh".to_vec(), b"-l".to_vec()] } else { vec![b"/bin/sh".to_vec()] };
    Exec { argv, ..surroundings(config, asked) }
}

/// Environment, folder and user of any command in a machine: what was asked for, over what the image says.
pub fn surroundings(config: &ImageConfig, asked: &CommandSpec) -> Exec {
    let bytes = |text: &String| text.clone().into_bytes();
    let of_image = config.env.iter().filter_map(|pair| pair.split_once('='));
    let env = of_image.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    let env = env.chain(asked.env.iter().map(|(name, value)| (bytes(name), bytes(value))));
    let given = |asked: &Option<String>, own: &Option<String>| {
        let text = asked.as_ref().or(own.as_ref()).filter(|text| !text.is_empty());
        text.map(bytes)
    };
    Exec {
        env: env.collect(),
        cwd: given(&asked.workdir, &config.workdir),
        user: given(&asked.user, &config.user),
        ..Exec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_command_is_put_together_as_dockers_is() {
        let both = ImageConfig { entrypoint: words(&["/run"]), cmd: words(&["-a"]), ..ImageConfig::default() };
        let cmd = ImageConfig { cmd: words(&["bash"]), ..ImageConfig::default() };
        let cases: [(&ImageConfig, &[&str], Option<&str>, &str); 10] = [
            (&both, &[], None, "/run -a"),
            (&both, &["-b", "c"], None, "/run -b c"),
            (&both, &[], Some("sh"), "sh"),
            (&both, &["-b"], Some("sh"), "sh -b"),
            (&both, &["ls"], Some(""), "ls"),
            (&both, &[], Some(""), ""),
            (&cmd, &[], None, "bash"),
            (&cmd, &["ls", "-l"], None, "ls -l"),
            (&ImageConfig::default(), &[], None, ""),
            (&ImageConfig::default(), &["ls"], None, "ls"),
        ];
        for (config, argv, entrypoint, expected) in cases {
            let entrypoint = entrypoint.map(str::to_owned);
            let asked = CommandSpec { argv: words(argv), entrypoint, ..CommandSpec::default() };
            let argv = command(config, &asked).map_or_else(Vec::new, |exec| exec.argv);
            assert_eq!(argv.join(&b' '), expected.as_bytes(), "{config:?} {asked:?}");
        }
    }

    #[test]
    fn a_shell_that_an_image_names_is_for_who_sits_there() {
        let of = |cmd: &[&str]| ImageConfig { cmd: words(cmd), ..ImageConfig::default() };
        let nothing = CommandSpec::default();
        for shell in ["bash", "/bin/sh"] {
            assert!(unattended_command(&of(&[shell]), &nothing).is_none());
            assert!(command(&of(&[shell]), &nothing).is_some());
        }
        let (asked, on_terminal) = (
            CommandSpec { argv: words(&["bash"]), ..CommandSpec::default() },
            CommandSpec { tty: true, ..CommandSpec::default() },
        );
        assert!(unattended_command(&of(&["bash"]), &asked).is_some());
        assert!(unattended_command(&of(&["bash"]), &on_terminal).is_some());
        assert!(unattended_command(&of(&["sh", "/start"]), &nothing).is_some());
        assert!(unattended_command(&of(&["nginx"]), &nothing).is_some());
        let with_entrypoint = ImageConfig { entrypoint: words(&["/entry"]), ..of(&["bash"]) };
        assert!(unattended_command(&with_entrypoint, &nothing).is_some());
    }

    #[test]
    fn what_was_asked_for_stands_over_the_images_word() {
        let config = ImageConfig {
            env: words(&["A=1", "B=2=3", "odd"]),
            user: Some("web".into()),
            workdir: Some("/srv".into()),
            ..ImageConfig::default()
        };
        let exec = surroundings(&config, &CommandSpec::default());
        assert_eq!((exec.user.as_deref(), exec.cwd.as_deref()), (Some(&b"web"[..]), Some(&b"/srv"[..])));
        assert_eq!(exec.env, [(b"A".to_vec(), b"1".to_vec()), (b"B".to_vec(), b"2=3".to_vec())]);
        let asked = CommandSpec {
            env: vec![("A".into(), "9".into())],
            user: Some("root".into()),
            workdir: Some("/tmp".into()),
            ..CommandSpec::default()
        };
        let exec = surroundings(&config, &asked);
        assert_eq!((exec.user.as_deref(), exec.cwd.as_deref()), (Some(&b"root"[..]), Some(&b"/tmp"[..])));
        assert_eq!(exec.env.last(), Some(&(b"A".to_vec(), b"9".to_vec())), "the last one stands");
    }
}
