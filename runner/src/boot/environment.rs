//! The guest's environment variables.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::config::RunConfig;

/// Search path of a guest with its own root directory.
const ROOTFS_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Search path of execvp(3) when the variable is missing.
const FALLBACK_PATH: &[u8] = b"/bin:/usr/bin";

/// The environment as `NAME=VALUE` strings.
///
/// Without a root directory of its own the guest has the caller's, with one PATH, HOME and TERM alone; `--clear-env`
/// empties either; then each `--env` adds or replaces.
pub(super) fn build(config: &RunConfig, caller: &[(OsString, OsString)], home: &[u8]) -> Vec<Vec<u8>> {
    let of_caller = |name: &OsStr| caller.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let mut variables: Vec<(OsString, OsString)> = if config.clear_env {
        Vec::new()
    } else if config.rootfs.is_some() {
        let mut few = vec![("PATH".into(), ROOTFS_PATH.into()), ("HOME".into(), OsStr::from_bytes(home).to_owned())];
        few.extend(of_caller(OsStr::new("TERM")).map(|value| ("TERM".into(), value.clone())));
        few
    } else {
        caller.to_vec()
    };
    for argument in &config.env {
        let bytes = argument.as_bytes();
        let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) => {
                let (name, rest) = bytes.split_at(at);
                (OsStr::from_bytes(name), Some(OsStr::from_bytes(rest.get(1..).unwrap_or(&[])).to_owned()))
            }
            None => (argument.as_os_str(), of_caller(argument).cloned()),
        };
        // `--env NAME` of a variable that the caller does not have removes nothing and adds nothing.
        let Some(value) = value else { continue };
        match variables.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => variables.push((name.to_owned(), value)),
        }
    }
    variables
        .into_iter()
        .map(|(name, value)| {
            let mut bytes = name.into_vec();
            bytes.push(b'=');
            bytes.extend_from_slice(value.as_bytes());
            bytes
        })
        .collect()
}

/// The directories in which a command without a slash is looked for, in order; an empty one is the working directory.
pub(super) fn search_path(environment: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let path = environment.iter().find_map(|variable| variable.strip_prefix(b"PATH=")).unwrap_or(FALLBACK_PATH);
    path.split(|&byte| byte == b':').map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::{build, search_path};
    use crate::config::{GuestTerminal, Isolation, LogSink, RunConfig};

    fn config(rootfs: bool, clear: bool, env: &[&str]) -> RunConfig {
        RunConfig {
            name: None,
            terminal: GuestTerminal::Callers,
            command: vec!["x".into()],
            rootfs: rootfs.then(|| "/r".into()),
            cwd: None,
            env: env.iter().map(Into::into).collect(),
            clear_env: clear,
            user: None,
            volumes: Vec::new(),
            hidden: Vec::new(),
            hostname: None,
            memory: 0,
            pids: 0,
            strace: LogSink::Off,
            debug: LogSink::Off,
            cpus: u32::MAX,
            handover: platform_systrap::Handover::Auto,
            patching: crate::config::Patching::On,
            isolation: Isolation::Namespaces,
        }
    }

    fn strings(list: &[Vec<u8>]) -> Vec<String> {
        list.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect()
    }

    #[test]
    fn rules() {
        let caller = [("PATH".into(), "/p".into()), ("TERM".into(), "vt100".into()), ("A".into(), "1".into())];
        let got = |rootfs, clear, env: &[&str]| strings(&build(&config(rootfs, clear, env), &caller, b"/h"));
        assert_eq!(got(false, false, &[]), ["PATH=/p", "TERM=vt100", "A=1"]);
        assert_eq!(got(false, false, &["A=2", "B=x=y", "C"]), ["PATH=/p", "TERM=vt100", "A=2", "B=x=y"]);
        assert_eq!(got(true, false, &["A"])[1..], ["HOME=/h", "TERM=vt100", "A=1"]);
        assert_eq!(got(true, true, &["Z="]), ["Z="]);
        assert_eq!(got(false, true, &[]), [""; 0]);
    }

    #[test]
    fn search_paths() {
        assert_eq!(strings(&search_path(&[b"PATH=/a::/b".to_vec()])), ["/a", "", "/b"]);
        assert_eq!(strings(&search_path(&[])), ["/bin", "/usr/bin"]);
    }
}
