//! What an image is built from, as a person writes it (ADR 22): the instructions of a Dockerfile that make sense for a machine.
//!
//! ```text
//! FROM image | source            once, first
//! PACKAGES name...               right behind FROM debian or FROM deb:SUITE
//! COPY source... target          from the context
//! RUN command | ["program", ...]
//! ENV NAME=value...   LABEL name=value...   USER user   WORKDIR folder   EXPOSE port...
//! ENTRYPOINT, CMD     command | ["program", ...]
//! ```
//!
//! Lines that begin with `#` are comments; a backslash at a line's end has it go on. `$NAME` and `${NAME}` stand for what ENV has set.

mod words;

use crate::ImageConfig;
use crate::near::near;
use words::{assignments, words};

/// Bytes of a file at most.
pub const MAX_MOTUFILE: usize = 1 << 20;

/// A file that has been understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Motufile {
    /// The image, or the source, that it begins with.
    pub from: String,
    /// Packages to be in it from the start.
    pub packages: Vec<String>,
    /// The rest, in order.
    pub steps: Vec<Step>,
}

/// An instruction, where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line that it begins in, from 1 on.
    pub line: usize,
    /// As it was written, on one line.
    pub text: String,
    /// What it asks for.
    pub what: Instruction,
}

/// What a step asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// Run this in a machine.
    Run(Vec<String>),
    /// Copy these of the context to there.
    Copy {
        /// Paths below the context.
        sources: Vec<String>,
        /// A path in the image; one that ends in a slash is a folder.
        target: String,
    },
    /// A change of what is run by default.
    Config(Change),
}

/// A change of an image's [`ImageConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Names and values of the environment.
    Env(Vec<(String, String)>),
    /// Names and values of labels.
    Label(Vec<(String, String)>),
    /// Who runs commands.
    User(String),
    /// Where they start; one that does not begin with a slash goes on from the last one.
    Workdir(String),
    /// Ports that are listened on.
    Expose(Vec<String>),
    /// The program.
    Entrypoint(Vec<String>),
    /// The command.
    Cmd(Vec<String>),
}

/// What cannot be understood, and what would have been right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct MotufileError {
    /// From 1 on.
    pub line: usize,
    /// One sentence.
    pub problem: String,
}

/// All instructions, and how each is written.
const KNOWN: [(&str, &str); 11] = [
    ("FROM", "FROM debian"),
    ("PACKAGES", "PACKAGES curl git"),
    ("COPY", "COPY src/ /srv/"),
    ("RUN", "RUN make -C /srv"),
    ("ENV", "ENV NAME=value"),
    ("LABEL", "LABEL name=value"),
    ("USER", "USER app"),
    ("WORKDIR", "WORKDIR /srv"),
    ("EXPOSE", "EXPOSE 80"),
    ("ENTRYPOINT", "ENTRYPOINT [\"/srv/start\"]"),
    ("CMD", "CMD [\"--help\"]"),
];

/// Docker's, and what to do instead.
const DOCKERS: [(&str, &str); 8] = [
    ("ADD", "write COPY for what lies in the context, and RUN for what is to be unpacked"),
    ("ARG", "write ENV, or make the file from another"),
    ("VOLUME", "give the machine a disk when it is run (--disk)"),
    ("HEALTHCHECK", "leave it out"),
    ("ONBUILD", "leave it out"),
    ("SHELL", "write RUN [\"/bin/bash\", \"-c\", \"...\"]"),
    ("STOPSIGNAL", "leave it out"),
    ("MAINTAINER", "write LABEL maintainer=..."),
];

impl Motufile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first line that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, MotufileError> {
        let mut file: Option<Self> = None;
        let mut config = ImageConfig::default();
        for (line, text) in logical_lines(text) {
            let failed = |problem: String| MotufileError { line, problem };
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
            let (keyword, rest) = (word.to_ascii_uppercase(), rest.trim());
            let Some((_, example)) = KNOWN.iter().find(|(known, _)| *known == keyword) else {
                return Err(failed(unknown(word, &keyword)));
            };
            if rest.is_empty() {
                return Err(failed(format!("{keyword} says nothing; write it as {example}")));
            }
            match (keyword.as_str(), &mut file) {
                ("FROM", None) => {
                    let from = words(rest, None).and_then(|words| one(&keyword, example, words)).map_err(failed)?;
                    file = Some(Self { from, packages: Vec::new(), steps: Vec::new() });
                }
                ("FROM", Some(_)) => {
                    return Err(failed("a second FROM; an image is built from one, in one stage".to_owned()));
                }
                (_, None) => return Err(failed(format!("{keyword} comes before FROM, which is to be the first"))),
                ("PACKAGES", Some(file)) if file.steps.is_empty() => {
                    file.packages.extend(words(rest, None).map_err(failed)?);
                }
                ("PACKAGES", Some(_)) => {
                    return Err(failed(
                        "PACKAGES is to stand right behind FROM: they are there from the start".to_owned(),
                    ));
                }
                (_, Some(file)) => {
                    let what = instruction(&keyword, example, rest, &config).map_err(failed)?;
                    if let Instruction::Config(change) = &what {
                        change.apply(&mut config);
                    }
                    file.steps.push(Step { line, text: text.clone(), what });
                }
            }
        }
        file.ok_or(MotufileError {
            line: 1,
            problem: "there is no FROM; write FROM debian, or another image".to_owned(),
        })
    }
}

fn unknown(word: &str, keyword: &str) -> String {
    if let Some((_, instead)) = DOCKERS.iter().find(|(name, _)| *name == keyword) {
        return format!("{keyword} is Docker's and not motu's; {instead}");
    }
    let known: Vec<String> = KNOWN.iter().map(|(name, _)| (*name).to_owned()).collect();
    match near(keyword, &known).as_slice() {
        [] => format!("{word:?} is no instruction; there are {}", known.join(", ")),
        meant => format!("{word:?} is no instruction; is {} meant?", meant.join(" or ")),
    }
}

/// Lines without comments, joined where a backslash says so, each with the number of its first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        // A comment or an empty line inside a joined one is left out, as in Docker.
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (part, goes_on) = match line.strip_suffix('\\') {
            Some(part) => (part.trim_end(), true),
            None => (line, false),
        };
        let (_, joined) = open.get_or_insert_with(|| (number + 1, String::new()));
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(part);
        if !goes_on {
            lines.extend(open.take());
        }
    }
    lines.extend(open);
    lines
}

fn instruction(keyword: &str, example: &str, rest: &str, config: &ImageConfig) -> Result<Instruction, String> {
    // A shell does this by itself.
    let words = || words(rest, Some(config));
    let change = match keyword {
        "RUN" if rest.starts_with("<<") => {
            return Err("RUN has no here-documents; join lines with a backslash".to_owned());
        }
        "RUN" => return command(rest).map(Instruction::Run),
        "COPY" => {
            let mut sources = words()?;
            if let Some(option) = sources.iter().find(|word| word.starts_with("--")) {
                return Err(format!("COPY has no options, such as {option}; owners are changed by RUN chown"));
            }
            let target = sources.pop().filter(|_| !sources.is_empty());
            let target = target.ok_or_else(|| format!("COPY has one path; write what and where to, as {example}"))?;
            return Ok(Instruction::Copy { sources, target });
        }
        "ENV" => Change::Env(assignments(&words()?, example)?),
        "LABEL" => Change::Label(assignments(&words()?, example)?),
        "USER" => Change::User(one(keyword, example, words()?)?),
        "WORKDIR" => Change::Workdir(one(keyword, example, words()?)?),
        "EXPOSE" => {
            // A value may be a list.
            let words = words()?;
            Change::Expose(
                words.iter().flat_map(|word| word.split_whitespace()).map(port_of).collect::<Result<_, _>>()?,
            )
        }
        "ENTRYPOINT" => Change::Entrypoint(command(rest)?),
        _ => Change::Cmd(command(rest)?),
    };
    Ok(Instruction::Config(change))
}

/// A list of words as JSON, or a line for a shell.
fn command(rest: &str) -> Result<Vec<String>, String> {
    if !rest.starts_with('[') {
        return Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()]);
    }
    match serde_json::from_str::<Vec<String>>(rest) {
        Ok(words) if words.is_empty() => Err("an empty list is no command".to_owned()),
        Ok(words) => Ok(words),
        Err(error) => Err(format!(
            "what begins with [ is a list of texts in double quotes, such as [\"ls\", \"-l\"] ({error}); a line for a shell begins \
             otherwise"
        )),
    }
}

fn one(keyword: &str, example: &str, words: Vec<String>) -> Result<String, String> {
    match words.as_slice() {
        [word] => Ok(word.clone()),
        many => Err(format!("{keyword} takes one word and has {}; write it as {example}", many.len())),
    }
}

/// `80`, `80/udp`.
fn port_of(text: &str) -> Result<String, String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0) && matches!(protocol, "tcp" | "udp");
    is_port
        .then(|| format!("{port}/{protocol}"))
        .ok_or_else(|| format!("{text:?} is no port; write 80, 80/tcp or 53/udp"))
}

impl Change {
    /// Makes the change.
    pub fn apply(&self, config: &mut ImageConfig) {
        match self {
            Change::Env(pairs) => {
                for (name, value) in pairs {
                    config.env.retain(|entry| entry.split_once('=').is_none_or(|(other, _)| other != name));
                    config.env.push(format!("{name}={value}"));
                }
            }
            Change::Label(pairs) => config.labels.extend(pairs.iter().cloned()),
            Change::User(user) => config.user = Some(user.clone()),
            Change::Workdir(folder) => {
                let before = config.workdir.as_deref().unwrap_or("/");
                let joined = std::path::Path::new(before).join(folder);
                config.workdir = Some(joined.to_string_lossy().into_owned());
            }
            Change::Expose(ports) => {
                for port in ports {
                    if !config.exposed_ports.contains(port) {
                        config.exposed_ports.push(port.clone());
                    }
                }
            }
            // The command may have been arguments for another program.
            Change::Entrypoint(program) => {
                config.entrypoint = program.clone();
                config.cmd.clear();
            }
            Change::Cmd(command) => config.cmd = command.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
