# make demo   see it work           make test   everything is tested         make chaos   for an hour, everything fails
# Both install what is missing with apt (Debian 12, as root) and need a Rust toolchain.

.PHONY: demo test chaos bench build packages packages-of-tests

build: packages
	cargo build --release --locked

demo: build
	tests/demo.sh

test: packages-of-tests
	cargo fmt --check
	cargo clippy --all-targets --locked -- --deny warnings
	# The parts that need no Kea, alone.
	cargo test --locked --no-default-features
	# Everything, in real servers.
	cargo test --locked --test servers
	# The images of docker/, with the Kea of three Debian releases.
	cargo test --locked --test containers

chaos: packages-of-tests
	CHAOS_SECONDS=$${CHAOS_SECONDS:-3600} cargo test --locked --test servers chaos -- --nocapture

bench: packages-of-tests
	cargo bench --locked --bench parts
	cargo bench --locked --bench kea

packages:
	tests/packages.sh

packages-of-tests:
	tests/packages.sh tests
