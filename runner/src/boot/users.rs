//! `--user`: names are looked up in the guest's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)), which are
//! bytes of the guest and so not trusted to be well-formed.

/// Who the command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// User id.
    pub(super) uid: u32,
    /// Primary group id.
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    /// Home directory.
    pub(super) home: Vec<u8>,
}

/// Resolves `USER[:GROUP]`; the error is a line for the user.
pub(super) fn resolve(text: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, String> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let number: Option<u32> = user.parse().ok();
    let entry = records(passwd).find_map(|fields| {
        let name = *fields.first()?;
        let uid = parse(fields.get(2)?)?;
        let matches = number.map_or(name == user.as_bytes(), |number| number == uid);
        matches.then(|| Entry {
            name: name.to_vec(),
            uid,
            gid: fields.get(3).and_then(|field| parse(field)).unwrap_or(0),
            home: fields.get(5).map_or_else(|| b"/".to_vec(), |home| home.to_vec()),
        })
    });
    let entry = match (entry, number) {
        (Some(entry), _) => entry,
        (None, Some(uid)) => Entry { name: Vec::new(), uid, gid: 0, home: b"/".to_vec() },
        (None, None) => return Err(format!("--user {text}: no user {user:?} in the guest's /etc/passwd")),
    };
    let Some(wanted) = wanted_group else {
        let groups = records(group)
            .filter(|fields| {
                let members = fields.get(3).copied().unwrap_or(b"");
                !entry.name.is_empty() && members.split(|&byte| byte == b',').any(|member| member == entry.name)
            })
            .filter_map(|fields| parse(fields.get(2)?))
            .take(MOST_GROUPS)
            .collect();
        return Ok(Identity { uid: entry.uid, gid: entry.gid, groups, home: entry.home });
    };
    let gid = wanted.parse().ok().or_else(|| {
        records(group)
            .find_map(|fields| (*fields.first()? == wanted.as_bytes()).then(|| parse(fields.get(2)?)).flatten())
    });
    match gid {
        Some(gid) => Ok(Identity { uid: entry.uid, gid, groups: Vec::new(), home: entry.home }),
        None => Err(format!("--user {text}: no group {wanted:?} in the guest's /etc/group")),
    }
}

/// `NGROUPS_MAX`.
const MOST_GROUPS: usize = 65_536;

struct Entry {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: Vec<u8>,
}

fn records(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|&byte| byte == b'\n').map(|line| line.split(|&byte| byte == b':').collect())
}

fn parse(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::resolve;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\n\nann:x:1000:100:Ann:/home/ann:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nusers:x:100:\nwheel:x:10:bob,ann\nvideo:x:44:ann\nbad:x:y:ann\n";

    #[test]
    fn names_and_numbers() {
        let ann = resolve("ann", PASSWD, GROUP).expect("known");
        assert_eq!(
            (ann.uid, ann.gid, ann.groups.as_slice(), ann.home.as_slice()),
            (1000, 100, &[10, 44][..], &b"/home/ann"[..])
        );
        let with_group = resolve("ann:wheel", PASSWD, GROUP).expect("known");
        assert_eq!((with_group.gid, with_group.groups.len()), (10, 0));
        let number = resolve("1000:7", PASSWD, GROUP).expect("numbers");
        assert_eq!((number.uid, number.gid), (1000, 7));
        let unknown = resolve("4242", PASSWD, GROUP).expect("numbers need no entry");
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_slice()), (4242, 0, &b"/"[..]));
        assert!(resolve("bob", PASSWD, GROUP).is_err());
        assert!(resolve("ann:nobody", PASSWD, GROUP).is_err());
        assert!(resolve("", PASSWD, GROUP).is_err());
    }
}
