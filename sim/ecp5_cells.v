// What an ECP5's block RAMs and multipliers do in a placed netlist, as far as Yosys and `sim/multipliers.py` use them. Yosys' own
// library declares these cells and leaves them empty.

// True dual port with 1, 2, 4, 9 or 18 bits a port, or 36 bits written through A and read through B; no output register,
// no initial content. Addresses count bits; of 18 and 36 bits, the lowest address bits enable bytes.
module codesign_dp16kd #(
    parameter WIDTH_A = 18, parameter WIDTH_B = 18
) (
    input clk_a, input clk_b, input en_a, input en_b, input we_a, input we_b, input [13:0] ad_a, input [13:0] ad_b,
    input [17:0] di_a, input [17:0] di_b, output reg [17:0] do_a, output reg [17:0] do_b
);
    reg [8:0] kept [0:2047];
    integer i;
    generate
        if (WIDTH_A == 36 && WIDTH_B == 36) begin
            wire [35:0] data = {di_b, di_a};
            reg [35:0] read;
            always @(posedge clk_a) if (en_a && we_a)
                for (i = 0; i < 4; i = i + 1) if (ad_a[i]) kept[{ad_a[13:5], 2'b00} + i] <= data[9*i +: 9];
            always @(posedge clk_b) if (en_b)
                for (i = 0; i < 4; i = i + 1) read[9*i +: 9] <= kept[{ad_b[13:5], 2'b00} + i];
            always @* {do_b, do_a} = read;
        end else begin
            if (WIDTH_A <= 4) begin
                always @(posedge clk_a) if (en_a) begin
                    do_a <= kept[ad_a[13:3]] >> ad_a[2:0];
                    if (we_a)
                        for (i = 0; i < WIDTH_A; i = i + 1) kept[ad_a[13:3]][ad_a[2:0] + i] <= di_a[i];
                end
            end else begin
                always @(posedge clk_a) if (en_a)
                    for (i = 0; i < WIDTH_A / 9; i = i + 1) begin
                        do_a[9*i +: 9] <= kept[(ad_a[13:3] & ~(WIDTH_A / 9 - 1)) + i];
                        if (we_a && (WIDTH_A == 9 || ad_a[i])) kept[(ad_a[13:3] & ~(WIDTH_A / 9 - 1)) + i] <= di_a[9*i +: 9];
                    end
            end
            if (WIDTH_B <= 4) begin
                always @(posedge clk_b) if (en_b) begin
                    do_b <= kept[ad_b[13:3]] >> ad_b[2:0];
                    if (we_b)
                        for (i = 0; i < WIDTH_B; i = i + 1) kept[ad_b[13:3]][ad_b[2:0] + i] <= di_b[i];
                end
            end else begin
                always @(posedge clk_b) if (en_b)
                    for (i = 0; i < WIDTH_B / 9; i = i + 1) begin
                        do_b[9*i +: 9] <= kept[(ad_b[13:3] & ~(WIDTH_B / 9 - 1)) + i];
                        if (we_b && (WIDTH_B == 9 || ad_b[i])) kept[(ad_b[13:3] & ~(WIDTH_B / 9 - 1)) + i] <= di_b[9*i +: 9];
                    end
            end
            if (WIDTH_A == 36 || WIDTH_B == 36) $error("a block RAM of widths that are not modelled");
        end
    endgenerate
endmodule

// 18 x 18 bits, each signed or not; a register before either operand and one behind the product, where there is one.
module codesign_mult18x18d #(
    parameter REG_A = 0, parameter REG_B = 0, parameter REG_P = 0
) (
    input clk, input [17:0] a, input [17:0] b, input signed_a, input signed_b, output [35:0] p
);
    reg [17:0] held_a, held_b;
    reg [35:0] held_p;
    wire signed [18:0] x = REG_A ? {signed_a & held_a[17], held_a} : {signed_a & a[17], a};
    wire signed [18:0] y = REG_B ? {signed_b & held_b[17], held_b} : {signed_b & b[17], b};
    wire signed [37:0] product = x * y;
    always @(posedge clk) begin
        held_a <= a;
        held_b <= b;
        held_p <= product[35:0];
    end
    assign p = REG_P ? held_p : product[35:0];
endmodule
