//! `keyctl(2)`. `linux/keyctl.h`.

consts! {
    i32 {
        KEY_SPEC_THREAD_KEYRING = -1,
        KEY_SPEC_PROCESS_KEYRING = -2,
        KEY_SPEC_SESSION_KEYRING = -3,
        KEY_SPEC_USER_KEYRING = -4,
        KEY_SPEC_USER_SESSION_KEYRING = -5,
    }
    u32 {
        KEYCTL_GET_KEYRING_ID = 0,
        KEYCTL_JOIN_SESSION_KEYRING = 1,
        KEYCTL_UPDATE = 2,
        KEYCTL_REVOKE = 3,
        KEYCTL_CHOWN = 4,
        KEYCTL_SETPERM = 5,
        KEYCTL_DESCRIBE = 6,
        KEYCTL_CLEAR = 7,
        KEYCTL_LINK = 8,
        KEYCTL_UNLINK = 9,
        KEYCTL_SEARCH = 10,
        KEYCTL_READ = 11,
    }
}
