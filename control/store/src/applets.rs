//! Which commands a busybox has, read from its file.
//!
//! The file holds their names one after the other, each with a NUL after it, sorted, because busybox
//! searches them by halving (busybox libbb/appletlib.c: `applet_names`). Reading them takes no
//! running of the program on the host, and the guest has its links without making them at each boot.

/// The first names of the list, `[` and `[[`, in every busybox that has a shell's `test`.
const START: &[u8] = b"\0[\0[[\0";

/// More than any busybox has.
const MOST: usize = 1000;

/// The names of the commands in this busybox; none if it keeps them in another way.
pub(crate) fn names(busybox: &[u8]) -> Vec<&str> {
    let starts = busybox.windows(START.len()).enumerate().filter(|(_, window)| *window == START);
    for (at, _) in starts {
        let list = busybox.get(at.saturating_add(1)..).unwrap_or_default();
        let names: Vec<&str> = list.split(|byte| *byte == 0).map_while(name).take(MOST).collect();
        let wanted = ["cat", "ls", "mount", "sh"];
        if names.is_sorted() && wanted.iter().all(|name| names.binary_search(name).is_ok()) {
            return names;
        }
    }
    Vec::new()
}

fn name(bytes: &[u8]) -> Option<&str> {
    let fits = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"[_-.+".contains(byte);
    let text = std::str::from_utf8(bytes).ok()?;
    (!bytes.is_empty() && bytes.len() <= 32 && bytes.iter().all(fits)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn the_list_is_found_among_other_bytes() {
        let list = b"junk\0[\0[[\0no list\0x\0[\0[[\0cat\0ls\0mount\0sh\0zcat\0\0sz\0more";
        assert_eq!(names(list), ["[", "[[", "cat", "ls", "mount", "sh", "zcat"]);
    }

    #[test]
    fn what_is_no_list_gives_no_names() {
        assert!(names(b"").is_empty());
        assert!(names(b"\0[\0[[\0").is_empty());
        assert!(names(b"\0[\0[[\0sh\0ls\0cat\0mount\0").is_empty(), "not sorted");
    }
}
