//! Words of a line: quotes, backslashes, names that stand for values.

use crate::ImageConfig;

/// What `$PATH` stands for where nobody has set it: what the agent gives commands.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Words between blanks; quotes keep blanks, and a backslash keeps the character behind it.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            // In single quotes nothing is special.
            ('\\', None | Some('"')) => {
                let kept = characters.next().ok_or("a backslash at the end keeps nothing")?;
                word.get_or_insert_default().push(kept);
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a quote ({open}) is not closed"));
    }
    words.extend(word);
    Ok(words)
}

/// `NAME=value` words.
pub(super) fn assignments(text: &str, example: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} is no name with a value; write it as {example}")),
    };
    words(text)?.iter().map(pair).collect()
}

/// Puts values in the place of `$NAME` and `${NAME}`: the environment's, or nothing. Not in single quotes; `\$` is a dollar sign.
pub(super) fn expand(text: &str, config: &ImageConfig) -> Result<String, String> {
    let value = |name: &str| {
        let set = config.env.iter().rev().find_map(|entry| entry.split_once('=').filter(|(other, _)| *other == name));
        set.map_or(if name == "PATH" { PATH } else { "" }, |(_, value)| value)
    };
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut shown, mut rest) = (String::new(), text);
    let mut single = false;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '\\' if !single => {
                // Kept with what it keeps: words come later.
                let kept = after.chars().next().map_or(0, char::len_utf8);
                shown.push_str(rest.get(..1 + kept).unwrap_or_default());
                rest = after.get(kept..).unwrap_or_default();
                continue;
            }
            '\'' => single = !single,
            '$' if !single => {
                let (name, behind) = match after.strip_prefix('{') {
                    Some(braced) => braced.split_once('}').ok_or("a ${ is not closed with }")?,
                    None => after.split_at(after.find(|c| !of_name(c)).unwrap_or(after.len())),
                };
                if !name.chars().all(of_name) {
                    return Err(format!("${{{name}}} is no name; what stands for a value is $NAME or ${{NAME}}"));
                }
                shown.push_str(if name.is_empty() { "$" } else { value(name) });
                rest = behind;
                continue;
            }
            _ => {}
        }
        shown.push(c);
        rest = after;
    }
    Ok(shown)
}
