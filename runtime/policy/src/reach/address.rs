//! Which addresses may be connected to. This is asked of the address that a name was resolved to, right before it is
//! connected to, so that no answer of a name server leads inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::origin::Host;

/// The networks of IPv4 that are not public: first address and length of the prefix (IANA, special-purpose registry).
const NOT_PUBLIC_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::UNSPECIFIED, 8),           // this network, unspecified
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // shared by a carrier (CGNAT)
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local, metadata of clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // relays to IPv6
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 3),     // multicast, reserved, broadcast
];

/// The networks of IPv6 within `2000::/3`, all that is public, that are not.
const NOT_PUBLIC_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4: any address of IPv4
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// The addresses of IPv4 as those see them who have IPv6 alone (NAT64).
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// Whether a request to `host` may connect to `address`, to which the host was resolved. An address that a grant writes
/// out may be any, `localhost` leads to loopback only, and every other name to public addresses only.
pub fn may_connect(host: &Host, address: IpAddr) -> bool {
    match host {
        Host::Address(named) => *named == address,
        Host::Name(name) if name == "localhost" => address.is_loopback(),
        Host::Name(_) => is_public(address),
    }
}

/// Whether an address is one of the public internet. Addresses of IPv4 in the clothes of IPv6 (`::ffff:0:0/96` and the like)
/// are not.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) if within_v6(address, NAT64, 96) => {
            let bits = u32::try_from(address.to_bits() & u128::from(u32::MAX)).unwrap_or(0);
            is_public_v4(Ipv4Addr::from_bits(bits))
        }
        IpAddr::V6(address) => {
            let is_global = within_v6(address, Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
            is_global && !NOT_PUBLIC_V6.iter().any(|(network, length)| within_v6(address, *network, *length))
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let within = |network: Ipv4Addr, length: u32| (address.to_bits() ^ network.to_bits()).leading_zeros() >= length;
    !NOT_PUBLIC_V4.iter().any(|(network, length)| within(*network, *length))
}

fn within_v6(address: Ipv6Addr, network: Ipv6Addr, length: u32) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_not_public_is_known() {
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(address(public)), "{public}");
        }
        for inside in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.19.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "::1.1.1.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "100::1",
        ] {
            assert!(!is_public(address(inside)), "{inside}");
        }
    }

    #[test]
    fn only_what_is_written_out_leads_inside() {
        let host = |text| Host::parse(text).expect("a host");
        for (named, resolved, expected) in [
            ("api.example", "1.1.1.1", true),
            ("api.example", "127.0.0.1", false),
            ("api.example", "10.0.0.1", false),
            ("localhost", "127.0.0.1", true),
            ("localhost", "::1", true),
            ("localhost", "10.0.0.1", false),
            ("localhost", "1.1.1.1", false),
            ("localhost.example", "127.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("169.254.169.254", "169.254.169.254", true),
            ("[::1]", "::1", true),
            ("[::1]", "127.0.0.1", false),
        ] {
            assert_eq!(may_connect(&host(named), address(resolved)), expected, "{named} {resolved}");
        }
    }

    proptest! {
        #[test]
        fn what_the_standard_library_calls_special_is_not_public(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from_bits(bits);
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_unspecified() || v4.is_broadcast() || v4.is_documentation();
            prop_assert!(!(special && is_public(v4.into())));
            prop_assert!(!is_public(v4.to_ipv6_mapped().into()) && !is_public(v4.to_ipv6_compatible().into()));
        }

        #[test]
        fn no_name_leads_to_what_is_not_public(bits in any::<u128>(), name in "[a-z]{1,9}(\\.[a-z]{1,9})?") {
            let v6 = Ipv6Addr::from_bits(bits);
            let host = Host::parse(&name).expect("a name");
            prop_assert_eq!(may_connect(&host, v6.into()), name != "localhost" && is_public(v6.into()));
            let special = v6.is_loopback() || v6.is_multicast() || v6.is_unspecified() || v6.is_unique_local()
                || v6.is_unicast_link_local();
            prop_assert!(!(special && is_public(v6.into())));
        }
    }
}
