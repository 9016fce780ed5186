# make demo   see it work           make test   everything is tested         make chaos   for an hour, everything fails
# make containers   with three releases of Kea
# make fuzz   hostile input, half an hour for each side that sends some
# make bench  what it costs           make bench-peers   beside what others do     make bench-history   etcd for ten minutes
# make instructions   counted, not timed
# They install what is missing with apt (Debian 12, as root) and need a Rust toolchain.

.PHONY: demo test containers chaos fuzz bench bench-peers bench-history instructions build deb deny packages-to-build packages-of-demo packages-of-tests

build: packages-to-build
	cargo build --release --locked

# A Debian package for the Kea that is installed here, in target/debian/.
deb:
	tests/packages.sh deb
	rm -rf target/debian && mkdir -p target/debian
	DESTINATION=target/debian debian/rules clean binary

demo: packages-of-demo build
	tests/demo.sh

test: packages-of-tests
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --all-targets --locked -- --deny warnings
	# The parts that need no Kea, alone.
	cargo test --locked --no-default-features
	# Everything, in real servers, which wait more than they work.
	cargo test --locked --test servers -- --test-threads=$$((2 * $$(nproc)))
	# What a packet thread does for a lease takes no more instructions than it did.
	cargo bench --locked --bench instructions
	# The images of docker/, with two newer releases of Kea, and the package, all of which are built at once.
	cargo test --locked --test containers -- --test-threads=5

# The same with three releases of Kea, and optimised as users have them.
containers: packages-of-tests
	OPTIMISED=1 cargo test --locked --test containers -- --include-ignored --test-threads=5

chaos: packages-of-tests
	CHAOS_SECONDS=$${CHAOS_SECONDS:-3600} cargo test --locked --test servers chaos -- --nocapture

# What it finds worth keeping stays in fuzz/corpus/, which `make test` runs through; fuzz/minimise.sh makes that small again.
fuzz: packages-to-build
	cargo fuzz --version || cargo install --locked cargo-fuzz
	for target in operator etcd client; do \
		cargo fuzz run --sanitizer none $$target -- -max_total_time=$${FUZZ_SECONDS:-1800} \
			-dict=fuzz/dictionary -timeout=60 -rss_limit_mb=1024 -print_final_stats=1 || exit 1; \
	done

bench: packages-of-tests
	cargo bench --locked --bench parts
	cargo bench --locked --bench kea

bench-peers: packages-of-tests
	cargo bench --locked --bench kea -- peers

# Ten minutes, and little CPU.
bench-history: packages-of-tests
	cargo bench --locked --bench kea -- history

# KEEP=1 keeps what is counted.
instructions: packages-of-tests
	cargo bench --locked --bench instructions

# What deny.toml says of every crate; compiles cargo-deny when it is not there, which takes a quarter of an hour.
deny:
	command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny check bans licenses sources

packages-to-build:
	tests/packages.sh build

packages-of-demo:
	tests/packages.sh demo

packages-of-tests:
	tests/packages.sh tests
