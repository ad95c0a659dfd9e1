/* Traffic for the AF_XDP tests: a generator, a sink, and the redirect to the socket under test. */
typedef unsigned char __u8;
typedef unsigned int __u32;
typedef unsigned long long __u64;

enum { MAP_ARRAY = 2, MAP_XSKMAP = 17 };
enum { ABORTED, DROP, PASS, TX, REDIRECT };

struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

#define SEC(name) __attribute__((section(name), used))
#define MAP(name, kind, size, value_type)      \
	struct {                               \
		int (*type)[kind];             \
		int (*max_entries)[size];      \
		__u32 *key;                    \
		value_type *value;             \
	} name SEC(".maps")

static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*redirect_to)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*redirect_map)(void *map, __u32 key, __u64 flags) = (void *)51;

#define SEQUENCES 2000000
MAP(sockets, MAP_XSKMAP, 64, __u32);
MAP(counts, MAP_ARRAY, 8, __u64);
MAP(seen, MAP_ARRAY, SEQUENCES, __u32);

/* Rows of `counts`, as in veths/mod.rs. */
enum { NEXT, REDIRECTED, PASSED, SUNK, DOUBLED, STRANGE };

/* Where the generator sends to; set before loading. */
volatile const __u32 egress = 0;

static __u64 *row(__u32 key)
{
	return lookup(&counts, &key);
}

static void count(__u32 key)
{
	__u64 *value = row(key);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/* The frames under test have EtherType 0x88b5 (IEEE 802, local experiments) and a number after it. */
static __u64 *number(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;

	if (data + 24 > end || data[12] != 0x88 || data[13] != 0xb5)
		return 0;
	return (__u64 *)(data + 16);
}

SEC("xdp") int generate(struct xdp_md *ctx)
{
	__u64 *place = number(ctx), *next = row(NEXT);

	if (!place || !next)
		return ABORTED;
	*place = (*next)++;
	return redirect_to(egress, 0);
}

SEC("xdp") int to_socket(struct xdp_md *ctx)
{
	__u64 *place = number(ctx);
	long verdict;

	if (!place)
		return PASS;
	verdict = redirect_map(&sockets, ctx->rx_queue_index, PASS);
	count(verdict == REDIRECT ? REDIRECTED : PASSED);
	return verdict == REDIRECT ? REDIRECT : DROP;
}

SEC("xdp") int sink(struct xdp_md *ctx)
{
	__u64 *place = number(ctx);
	__u32 key, *times;

	if (!place)
		return PASS;
	key = *place;
	times = lookup(&seen, &key);
	if (!times) {
		count(STRANGE);
		return DROP;
	}
	count(__sync_fetch_and_add(times, 1) ? DOUBLED : SUNK);
	return DROP;
}

char license_of_programs[] SEC("license") = "GPL";
