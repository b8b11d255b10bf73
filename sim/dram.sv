// The memory behind the machine's AXI ports, inside the simulated HDL so that no Python runs in the cycle loop.
//
// Every port reads through a channel of its own, the first one also writes; all see one memory. Without stalls it is
// deterministic. A read address is accepted when the channel has scheduled the last beat of the burst before; beat k
// of a burst accepted in cycle t comes in cycle t + 1 + latency + k * cycles_per_word. Write addresses are accepted at
// once, and beats every cycles_per_word cycles; a burst's response comes in the cycle after its last beat.
//
// To provoke the machine, every channel can hesitate (in each cycle with a probability in 1/256), one can stop for a
// while, and the n-th burst of a port can be answered with an error; then nothing of it is read or written.
//
// Contents are loaded from and saved to binary files of 64-bit words (see bench.sv).
module dram #(
    parameter int WORDS = 1 << 20,
    parameter int PORTS = 1,
    parameter int BASE = 0  // byte address of the first word
) (
    input logic clk,
    input logic rst,
    input logic [9:0] latency,
    input logic [6:0] cycles_per_word,
    input logic [31:0] seed,
    input logic [4:0][7:0] stalls,      // AR, R, AW, W, B
    input logic [4:0] stop_channel,     // the same, one-hot; of stop_port
    input logic [1:0] stop_port,
    input logic [31:0] stop_at,         // cycles after the reset
    input logic [31:0] stop_cycles,     // all ones: for ever
    input logic [31:0] fault_burst,     // counted from 1 after the reset; 0: none
    input logic fault_write,
    input logic [1:0] fault_port,
    input logic [1:0] fault_response,
    input logic [31:0] write_low,       // word addresses; nothing else may be written
    input logic [31:0] write_high,

    input  logic [PORTS-1:0]       arvalid,
    output logic [PORTS-1:0]       arready,
    input  logic [PORTS-1:0][31:0] araddr,
    input  logic [PORTS-1:0][3:0]  arlen,
    input  logic [PORTS-1:0][2:0]  arsize,
    input  logic [PORTS-1:0][1:0]  arburst,
    output logic [PORTS-1:0]       rvalid,
    input  logic [PORTS-1:0]       rready,
    output logic [PORTS-1:0][63:0] rdata,
    output logic [PORTS-1:0][1:0]  rresp,
    output logic [PORTS-1:0]       rlast,

    input  logic        awvalid,
    output logic        awready,
    input  logic [31:0] awaddr,
    input  logic [3:0]  awlen,
    input  logic [2:0]  awsize,
    input  logic [1:0]  awburst,
    input  logic        wvalid,
    output logic        wready,
    input  logic [63:0] wdata,
    input  logic [7:0]  wstrb,
    input  logic        wlast,
    output logic        bvalid,
    input  logic        bready,
    output logic [1:0]  bresp,

    output logic fault,  // an address beyond the memory, or a burst that AXI forbids
    output logic stray   // a write outside [write_low, write_high)
);
    localparam int ADDRESS = $clog2(WORDS);
    localparam int BEATS = 2048;   // that one port may have read and not delivered
    localparam int BURSTS = 2048;  // that may wait for their data, or their responses for the machine
    logic [63:0] contents [0:WORDS-1];
    logic [PORTS-1:0] read_fault;
    logic write_fault;
    assign fault = |read_fault || write_fault;

    logic [31:0] now;
    logic        frozen;  // stop_channel stops in this cycle
    assign frozen = now >= stop_at && (&stop_cycles || now - stop_at < stop_cycles);
    always_ff @(posedge clk) now <= rst ? 0 : now + 1;

    function automatic logic [31:0] next_random(logic [31:0] x);
        logic [31:0] y;
        y = x ^ (x << 13);
        y = y ^ (y >> 17);
        return y ^ (y << 5);
    endfunction

    // Full-width beats, incrementing, inside a 4 KB page and inside the memory.
    function automatic logic forbidden(logic [31:0] address, logic [3:0] len, logic [2:0] size, logic [1:0] burst);
        logic [31:0] first, last;
        first = address - BASE;
        last = first + {25'b0, len, 3'b0};
        return size != 3 || burst != 1 || address[2:0] != 0 || first[31:12] != last[31:12]
            || last < first || last[31:3] >= WORDS;
    endfunction

    for (genvar p = 0; p < PORTS; p++) begin : port
        logic [31:0] random_ar, random_r;
        wire stall_ar = random_ar[7:0] < stalls[0] || (stop_channel[0] && frozen && stop_port == p);
        wire stall_r = random_r[7:0] < stalls[1] || (stop_channel[1] && frozen && stop_port == p);

        // A server that reads a word every cycles_per_word cycles ...
        logic [31:0] next_address;
        logic [4:0]  beats_left;
        logic [6:0]  pause;
        logic [1:0]  next_response;
        logic [31:0] bursts;
        // ... and the beats on their way.
        logic [31:0] due      [0:BEATS-1];
        logic [31:0] address  [0:BEATS-1];
        logic [1:0]  response [0:BEATS-1];
        logic        last     [0:BEATS-1];
        logic [10:0] head, tail;
        logic        offered;  // the beat at `head` was offered and must stay

        wire [10:0] level = tail - head;
        assign arready[p] = beats_left == 0 && pause == 0 && level < BEATS - 32 && !stall_ar;
        wire accept = arvalid[p] && arready[p];
        wire emit = accept || (beats_left != 0 && pause == 0);
        wire [31:0] emit_address = accept ? araddr[p] - BASE : next_address;
        wire [1:0] emit_response = !accept ? next_response
            : !fault_write && fault_port == p && fault_burst == bursts + 1 ? fault_response : 0;

        assign rvalid[p] = level != 0 && (offered || (due[head] <= now && !stall_r));
        assign rdata[p] = response[head] == 0 ? contents[address[head][ADDRESS+2:3]] : 64'hbad0_bad0_bad0_bad0;
        assign rresp[p] = response[head];
        assign rlast[p] = last[head];

        always_ff @(posedge clk) begin
            if (stalls[0] != 0) random_ar <= next_random(random_ar);
            if (stalls[1] != 0) random_r <= next_random(random_r);
            if (accept) begin
                bursts <= bursts + 1;
                next_response <= emit_response;
                if (forbidden(araddr[p], arlen[p], arsize[p], arburst[p])) read_fault[p] <= 1;
            end
            if (emit) begin
                due[tail] <= now + 1 + {22'b0, latency};
                address[tail] <= emit_address;
                response[tail] <= emit_response;
                last[tail] <= accept ? arlen[p] == 0 : beats_left == 1;
                tail <= tail + 1;
                next_address <= emit_address + 8;
                beats_left <= accept ? {1'b0, arlen[p]} : beats_left - 1;
                pause <= cycles_per_word - 1;
            end else if (pause != 0) pause <= pause - 1;
            offered <= rvalid[p] && !rready[p];
            if (rvalid[p] && rready[p]) head <= head + 1;
            if (rst) begin
                {head, tail, beats_left, pause, offered, bursts} <= 0;
                read_fault[p] <= 0;
                random_ar <= seed * 2 + 32'h1000_0001 * (p + 1);
                random_r <= seed * 2 + 32'h0300_0001 * (p + 1);
            end
        end
    end

    // Writes.
    logic [31:0] random_aw, random_w, random_b;
    wire stall_aw = random_aw[7:0] < stalls[2] || (stop_channel[2] && frozen);
    wire stall_w = random_w[7:0] < stalls[3] || (stop_channel[3] && frozen);
    wire stall_b = random_b[7:0] < stalls[4] || (stop_channel[4] && frozen);
    logic [31:0] burst_address [0:BURSTS-1];
    logic [3:0]  burst_len     [0:BURSTS-1];
    logic [1:0]  burst_resp    [0:BURSTS-1];
    logic [10:0] to_answer, to_write, to_accept;  // bursts are answered, written, accepted up to here
    logic [3:0]  beat;
    logic [6:0]  write_pause;
    logic        answering;
    logic [31:0] write_bursts;
    wire [10:0] write_level = to_accept - to_answer;
    wire [31:0] write_address = (burst_address[to_write] >> 3) + {28'b0, beat};
    assign awready = write_level < BURSTS - 2 && !stall_aw;
    assign wready = to_write != to_accept && write_pause == 0 && !stall_w;
    assign bvalid = to_answer != to_write && (answering || !stall_b);
    assign bresp = burst_resp[to_answer];
    always_ff @(posedge clk) begin
        if (stalls[2] != 0) random_aw <= next_random(random_aw);
        if (stalls[3] != 0) random_w <= next_random(random_w);
        if (stalls[4] != 0) random_b <= next_random(random_b);
        if (awvalid && awready) begin
            burst_address[to_accept] <= awaddr - BASE;
            burst_len[to_accept] <= awlen;
            burst_resp[to_accept] <= fault_write && fault_burst == write_bursts + 1 ? fault_response : 0;
            to_accept <= to_accept + 1;
            write_bursts <= write_bursts + 1;
            if (forbidden(awaddr, awlen, awsize, awburst)) write_fault <= 1;
        end
        if (wvalid && wready) begin
            for (int i = 0; i < 8; i++)
                if (wstrb[i] && burst_resp[to_write] == 0)
                    contents[write_address[ADDRESS-1:0]][8*i +: 8] <= wdata[8*i +: 8];
            if (wstrb != 0 && (write_address < write_low || write_address >= write_high)) stray <= 1;
            if (wlast != (beat == burst_len[to_write])) write_fault <= 1;
            beat <= wlast ? 0 : beat + 1;
            if (wlast) to_write <= to_write + 1;
            write_pause <= cycles_per_word - 1;
        end else if (write_pause != 0) write_pause <= write_pause - 1;
        answering <= bvalid && !bready;
        if (bvalid && bready) to_answer <= to_answer + 1;
        if (rst) begin
            {to_answer, to_write, to_accept, beat, write_pause, answering, write_bursts} <= 0;
            write_fault <= 0;
            stray <= 0;
            random_aw <= seed * 2 + 32'h0050_0001;
            random_w <= seed * 2 + 32'h0007_0001;
            random_b <= seed * 2 + 32'h0000_9001;
        end
    end
endmodule
