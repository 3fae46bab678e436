//! The container's environment: a list of `NAME=VALUE` built up by rule, in bytes because nobody promises
//! UTF-8. Positions are kept when a value is replaced, as in the original. Reading files and deciding who may
//! set what is left to the callers.

/// Removed from what the caller passes on, because the C library removes them before a setuid program sees
/// them (ld.so(8), "secure-execution mode") and a static program's does not; all of `LD_*` goes besides.
const UNSAFE_FOR_SETUID: [&str; 13] = [
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "LOCPATH",
    "MALLOC_TRACE",
    "NIS_PATH",
    "NLSPATH",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "TMPDIR",
    "TZDIR",
];

/// The `PATH` of a container to which nobody gave one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An ordered list of variables; names are unique unless the caller's own list had repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    entries: Vec<Vec<u8>>,
}

impl Environment {
    /// What the caller passed on, without the names a setuid program must not be trusted with. Entries
    /// without `=` are dropped: no program can read them.
    pub fn inherited(entries: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let safe = |entry: &Vec<u8>| {
            name_of(entry).is_some_and(|name| {
                !name.starts_with(b"LD_") && !UNSAFE_FOR_SETUID.iter().any(|word| word.as_bytes() == name)
            })
        };
        Self { entries: entries.into_iter().filter(safe).collect() }
    }

    /// Reads a file of variables: one `NAME=VALUE` a line, blanks around it trimmed, empty lines and those that begin
    /// with `#` skipped, nothing unquoted or expanded. The error is the number of a line that is none of these.
    pub fn read_file(text: &[u8]) -> Result<Vec<Vec<u8>>, usize> {
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let wanted = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"));
        let checked = |(index, line): (usize, &[u8])| match name_of(line) {
            Some(_) if !line.contains(&0) => Ok(line.to_vec()),
            _ => Err(index + 1),
        };
        wanted.map(checked).collect()
    }

    /// The value of `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.position(name).map(|index| &self.entries[index][name.len() + 1..])
    }

    /// Sets `NAME=VALUE`, in place if the name is there. Entries without a name or `=` are skipped.
    pub fn set(&mut self, entry: &[u8]) {
        let Some(name) = name_of(entry) else { return };
        match self.position(name) {
            Some(index) => self.entries[index] = entry.to_vec(),
            None => self.entries.push(entry.to_vec()),
        }
    }

    /// Adds the value after the old one and a colon; sets it where there is none or an empty one.
    pub fn append(&mut self, entry: &[u8]) {
        self.join(entry, |old, new| [old, b":", new].concat());
    }

    /// Adds the value before the old one and a colon; sets it where there is none or an empty one.
    pub fn prepend(&mut self, entry: &[u8]) {
        self.join(entry, |old, new| [new, b":", old].concat());
    }

    fn join(&mut self, entry: &[u8], joined: impl Fn(&[u8], &[u8]) -> Vec<u8>) {
        let Some(name) = name_of(entry) else { return };
        let new = &entry[name.len() + 1..];
        match self.get(name).filter(|old| !old.is_empty()) {
            Some(old) => {
                let value = joined(old, new);
                self.set(&[name, b"=", &value].concat());
            }
            None => self.set(entry),
        }
    }

    /// Removes a name; a value after `=` is ignored.
    pub fn unset(&mut self, name: &[u8]) {
        let name = name_of(name).unwrap_or(name);
        self.entries.retain(|entry| name_of(entry) != Some(name));
    }

    /// The list, for execve(2).
    pub fn entries(&self) -> &[Vec<u8>] {
        &self.entries
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.entries.iter().position(|entry| name_of(entry) == Some(name))
    }
}

/// What stands before the first `=`; `None` if there is no `=` or no name.
fn name_of(entry: &[u8]) -> Option<&[u8]> {
    let end = entry.iter().position(|byte| *byte == b'=')?;
    (end > 0).then(|| &entry[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(entries: &[&str]) -> Environment {
        Environment::inherited(entries.iter().map(|entry| entry.as_bytes().to_vec()))
    }

    fn check(got: &Environment, expected: &[&str]) {
        let got: Vec<_> =
            got.entries().iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn names_the_c_library_removes_for_setuid_programs_are_gone() {
        let mut hostile: Vec<String> = UNSAFE_FOR_SETUID.iter().map(|name| format!("{name}=x")).collect();
        hostile.extend(
            ["LD_PRELOAD=/evil.so", "LD_LIBRARY_PATH=/x", "LD_AUDIT=", "no_equals", "=x"].map(str::to_owned),
        );
        hostile.extend(["HOME=/h", "LDFLAGS=-l", "TMPDIRX=1"].map(str::to_owned));
        let words: Vec<&str> = hostile.iter().map(String::as_str).collect();
        check(&environment(&words), &["HOME=/h", "LDFLAGS=-l", "TMPDIRX=1"]);
    }

    #[test]
    fn set_keeps_the_position_and_join_uses_one_colon() {
        let mut e = environment(&["A=1", "B=2", "PATH=/bin", "E="]);
        e.set(b"A=9");
        e.set(b"C==x");
        e.set(b"bad");
        e.append(b"PATH=/opt");
        e.prepend(b"PATH=/usr");
        e.append(b"E=1");
        e.prepend(b"N=n");
        e.unset(b"B=ignored");
        e.unset(b"missing");
        check(&e, &["A=9", "PATH=/usr:/bin:/opt", "E=1", "C==x", "N=n"]);
        assert_eq!(e.get(b"C"), Some(&b"=x"[..]));
        assert_eq!(e.get(b"PAT"), None);
    }

    #[test]
    fn files_of_variables_are_read_line_by_line() {
        for (text, expected) in [
            ("", Ok(vec![])),
            (
                "A=1\n# b\n\n  B = two words \r\nC=\"q\"\nD=",
                Ok(vec!["A=1", "B = two words", "C=\"q\"", "D="]),
            ),
            ("A=1\nno value\n", Err(2)),
            ("\n\n=x", Err(3)),
            ("A=\0", Err(1)),
        ] {
            let read = Environment::read_file(text.as_bytes());
            assert_eq!(
                read,
                expected.map(|lines| lines.iter().map(|line| line.as_bytes().to_vec()).collect())
            );
        }
    }
}
