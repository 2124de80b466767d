//! Words of a line: quotes, backslashes, names that stand for values.

use crate::ImageConfig;

/// What `$PATH` stands for where nobody has set it: what the agent gives commands.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Words between blanks, by a shell's rules: quotes keep blanks, a backslash keeps the character behind it, and in double quotes
/// it does so where that means something. With an environment, `$NAME` and `${NAME}` stand for its values, or for nothing, but
/// not in single quotes; a value is a part of its word, whatever is in it.
pub(super) fn words(text: &str, environment: Option<&ImageConfig>) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text;
    while let Some(c) = next(&mut rest) {
        match (c, quote, environment) {
            (c, Some(open), _) if c == open => quote = None,
            ('"' | '\'', None, _) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"'), _) => {
                let kept = next(&mut rest).ok_or("a backslash at the end keeps nothing")?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(kept, '"' | '\\' | '$') {
                    word.push('\\');
                }
                word.push(kept);
            }
            ('$', None | Some('"'), Some(config)) => {
                let value = value(&mut rest, config)?;
                if !value.is_empty() {
                    word.get_or_insert_default().push_str(value);
                }
            }
            (c, None, _) if c.is_whitespace() => words.extend(word.take()),
            (c, _, _) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a quote ({open}) is not closed"));
    }
    words.extend(word);
    Ok(words)
}

fn next(rest: &mut &str) -> Option<char> {
    let mut characters = rest.chars();
    let first = characters.next();
    *rest = characters.as_str();
    first
}

/// What the name behind a dollar sign stands for; the dollar sign itself, where no name follows.
fn value<'a>(rest: &mut &str, config: &'a ImageConfig) -> Result<&'a str, String> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (name, behind) = match rest.strip_prefix('{') {
        Some(braced) => braced.split_once('}').ok_or("a ${ is not closed with }")?,
        None => match rest.split_at(rest.find(|c| !of_name(c)).unwrap_or(rest.len())) {
            ("", _) => return Ok("$"),
            found => found,
        },
    };
    if name.is_empty() || !name.chars().all(of_name) {
        return Err(format!("${{{name}}} is no name; what stands for a value is $NAME or ${{NAME}}"));
    }
    *rest = behind;
    let set = config.env.iter().rev().find_map(|entry| entry.split_once('=').filter(|(other, _)| *other == name));
    Ok(set.map_or(if name == "PATH" { PATH } else { "" }, |(_, value)| value))
}

/// `NAME=value` words.
pub(super) fn assignments(words: &[String], example: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} is no name with a value; write it as {example}")),
    };
    words.iter().map(pair).collect()
}
